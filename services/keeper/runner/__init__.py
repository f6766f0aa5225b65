"""The embedded runner: executes workflow exports durably, with KeeperHub's semantics."""
