"""Alembic's history of the control tables; knows nothing of the read model, which is built anew."""
