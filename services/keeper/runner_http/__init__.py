"""KeeperHub's own REST and MCP paths, served over a workflow backend of ours. Runs nothing itself."""
