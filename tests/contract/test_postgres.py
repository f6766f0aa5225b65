"""The embedded PostgreSQL under our own supervision, on a directory of its own."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from services.stack import postgres


@pytest.fixture
def directory() -> Iterator[Path]:
    """Short, so that the socket stands beside the data, and one that every user may enter."""
    with tempfile.TemporaryDirectory(prefix="cp-pg-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


MAKE = "WITH made AS (INSERT INTO kept VALUES (42) RETURNING answer) SELECT answer FROM made"


async def ask(server: postgres.Postgres, question: str) -> object:
    async with await psycopg.AsyncConnection.connect(server.url(), autocommit=True) as connection:
        await connection.execute("CREATE TABLE IF NOT EXISTS kept (answer int)")
        row = await (await connection.execute(question.encode())).fetchone()
    assert row is not None
    return row[0]


async def test_it_starts_is_found_stops_and_keeps_its_data(directory: Path) -> None:
    data, log = directory / "data", directory / "log"
    assert postgres.running(data) is None
    server = await postgres.start(data, log, options={"work_mem": "5MB"})
    try:
        assert str(await ask(server, "SELECT version()")).startswith("PostgreSQL 18")
        assert await ask(server, "SHOW work_mem") == "5MB"
        assert await ask(server, "SHOW listen_addresses") == ""
        assert await ask(server, MAKE) == 42
        assert postgres.running(data) == server
        assert await postgres.start(data, log) == server
    finally:
        await server.stop()
    assert not server.alive()
    assert postgres.running(data) is None
    server = await postgres.start(data, log)
    try:
        assert await ask(server, "SELECT answer FROM kept") == 42
    finally:
        await server.stop()


async def test_it_recovers_from_a_stop_without_a_checkpoint(directory: Path) -> None:
    server = await postgres.start(directory / "data", directory / "log")
    await ask(server, MAKE)
    await server.stop(immediate=True)
    server = await postgres.start(directory / "data", directory / "log")
    try:
        assert await ask(server, "SELECT answer FROM kept") == 42
        assert "redo done" in (directory / "log").read_text()
    finally:
        await server.stop(immediate=True)


async def test_data_and_socket_are_closed_to_other_users(directory: Path) -> None:
    server = await postgres.start(directory / "data", directory / "log")
    try:
        for path in (server.data_dir, server.socket_dir):
            assert path.stat().st_mode & 0o077 == 0
        owner = Path(f"/proc/{server.pid}").stat().st_uid
        assert owner == server.data_dir.stat().st_uid
        assert owner == os.getuid() or os.getuid() == 0
        assert owner != 0
    finally:
        await server.stop(immediate=True)


async def test_a_long_path_gets_a_short_socket_and_a_closed_parent_is_no_hindrance(directory: Path) -> None:
    deep = directory / "closed" / ("long" * 30)
    deep.mkdir(parents=True)
    deep.parent.chmod(0o700)
    server = await postgres.start(deep / "data", deep / "log")
    try:
        assert await ask(server, "SELECT 1") == 1
        assert server.socket_dir.parent == Path(tempfile.gettempdir())
    finally:
        await server.stop(immediate=True)
        server.socket_dir.rmdir()


async def test_a_directory_of_something_else_is_refused_with_the_reason(directory: Path) -> None:
    data = directory / "data"
    data.mkdir()
    (data / "PG_VERSION").write_text("9.6\n")
    with pytest.raises(postgres.PostgresFailed, match="log"):
        await postgres.start(data, directory / "log", timeout_s=20)
    assert postgres.running(data) is None


async def test_a_process_id_that_was_given_to_another_is_not_taken_for_the_server(directory: Path) -> None:
    data = directory / "data"
    data.mkdir()
    (data / "postmaster.pid").write_text(f"{os.getpid()}\n{data}\n")
    assert postgres.running(data) is None
