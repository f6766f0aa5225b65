"""The gateway: HTTP in front of the log, the read model and the shards; knows nothing of activations or
of chains.
"""
