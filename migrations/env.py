"""Run by Alembic: one transaction under an advisory lock, or SQL text when offline; knows no revision."""

from alembic import context
from sqlalchemy import NullPool, create_engine, text

from migrations.control import metadata

_LOCK = 0x636F6D70
"""Two programs that migrate at the same time take turns."""


def _ours(name: str | None, kind: str, _: object) -> bool:
    """Only the default schema's tables: the read model's generations are not Alembic's."""
    return kind != "schema" or name is None


url = context.config.get_main_option("sqlalchemy.url")
if context.is_offline_mode():
    context.configure(
        url=url, dialect_name="postgresql", target_metadata=metadata, literal_binds=True, include_name=_ours
    )
    with context.begin_transaction():
        context.run_migrations()
else:
    if url is None:
        raise ValueError("sqlalchemy.url is not set; use services.migrate")
    with create_engine(url, poolclass=NullPool).begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        context.configure(connection=connection, target_metadata=metadata, include_name=_ours)
        context.run_migrations()
