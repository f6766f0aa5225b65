"""The workflow backend at a hosted KeeperHub: its REST or its MCP, one set of rules. Knows no workflow."""
