"""The auditor: proves or refutes the event log from its bytes alone; imports nothing of ours but `events`."""
