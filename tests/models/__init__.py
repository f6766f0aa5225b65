"""Models the tests serve: how they are made, and the made files; knows nothing of shards or services."""
