"""Attestors: they probe an accused node themselves, judge evidence from its bytes alone, and vote."""
