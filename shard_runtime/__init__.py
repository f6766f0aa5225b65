"""The worker: runs a range of a model's layers and talks to its neighbours; knows nothing of Postgres, pools' money or HTTP clients."""
