"""Runs the whole network on one machine: its servers, roles and nodes as child processes; decides nothing."""
