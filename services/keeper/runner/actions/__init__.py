"""What a workflow's nodes can do: one file per kind of action."""
