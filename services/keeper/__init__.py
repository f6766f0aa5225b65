"""Starts, changes, stops and closes the streams that the log wants; tells the log what the chain shows."""
