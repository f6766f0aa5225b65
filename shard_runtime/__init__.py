"""The worker: runs a range of a model's layers and talks to its neighbours.

Knows nothing of Postgres, of pools' money or of HTTP clients.
"""
