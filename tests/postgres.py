"""A real PostgreSQL for tests: one embedded server per test process, a database of its own per test.

Knows nothing of what is tested. A new database is a copy of a template that already has the control tables.
"""

import asyncio
import contextlib
import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
from psycopg import sql

from services.migrate import upgrade
from services.stack import postgres

_TEMPLATE = "migrated"
_numbers = itertools.count(1)
_started: tuple[postgres.Postgres, Path] | None = None

_FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "shared_buffers": "64MB"}
"""No test here cuts the power; processes are killed, and that loses no page."""


async def server() -> postgres.Postgres:
    """This process's server, started when first asked for; `stop_server` ends it."""
    global _started
    if _started is None:
        directory = Path(tempfile.mkdtemp(prefix="cp-pg-"))
        directory.chmod(0o755)
        running = await postgres.start(directory / "data", directory / "log", options=_FAST)
        _started = running, directory
        await _run(f"CREATE DATABASE {_TEMPLATE}")
        await asyncio.to_thread(upgrade, running.url(_TEMPLATE))
    return _started[0]


def stop_server() -> None:
    """At the end of the test session (tests/conftest.py)."""
    global _started
    if _started is not None:
        running, directory = _started
        _started = None
        asyncio.run(running.stop(immediate=True))
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.asynccontextmanager
async def database(*, template: str = _TEMPLATE) -> AsyncIterator[str]:
    """The URL of a new database with the control tables (`template="template0"`: empty), then dropped."""
    running = await server()
    name = f"test_{os.getpid()}_{next(_numbers)}"
    await _run(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    try:
        yield running.url(name)
    finally:
        await _run(f"DROP DATABASE {name} WITH (FORCE)")


async def _run(statement: str) -> None:
    assert _started is not None
    async with await psycopg.AsyncConnection.connect(_started[0].url("postgres"), autocommit=True) as admin:
        await admin.execute(sql.SQL(statement))
