"""Trouble on purpose: a bad network between a worker and its mesh node, and a drill that tells the damage."""
