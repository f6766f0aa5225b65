"""Where PostgreSQL is and how to connect; knows no table."""

from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo
from sqlalchemy import exc

from services.settings import Settings

Connection = psycopg.AsyncConnection[tuple[Any, ...]]


class DatabaseNotConfigured(Exception):
    """database_not_configured: no PostgreSQL is known; set DATABASE_URL, or start one: computepool up."""

    code = "database_not_configured"


AWAY = (psycopg.OperationalError, psycopg.InterfaceError)
"""What psycopg raises when the server is gone, full or shutting down: worth another try later."""
ENGINE_AWAY = (exc.OperationalError, exc.InterfaceError, exc.TimeoutError, OSError)
"""The same of an engine of SQLAlchemy, whose pool may have no connection to give for a while."""


def database_url(settings: Settings) -> str:
    """The postgresql:// URL. Raises DatabaseNotConfigured."""
    if settings.database_url is None:
        raise DatabaseNotConfigured(DatabaseNotConfigured.__doc__ or "")
    return settings.database_url.get_secret_value()


def sqlalchemy_url(url: str) -> str:
    """The same address for SQLAlchemy, by the psycopg driver."""
    scheme, _, rest = url.partition("://")
    if scheme.split("+")[0] not in ("postgresql", "postgres"):
        raise DatabaseNotConfigured(f"not a postgresql:// URL: {scheme}://...")
    return f"postgresql+psycopg://{rest}"


async def connect(url: str, name: str, *, autocommit: bool = False) -> Connection:
    """One connection, `name` as PostgreSQL's application_name.

    Raises psycopg.OperationalError within 5 s when there is no server.
    """
    conninfo = make_conninfo(url, application_name=f"computepool-{name}", connect_timeout=5)
    connection: Connection = await psycopg.AsyncConnection.connect(
        conninfo, autocommit=autocommit, prepare_threshold=None
    )
    return connection
