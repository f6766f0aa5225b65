"""Generations of the read model: one PostgreSQL schema each, one of them live behind the views in `read`.

Knows nothing of the log or of what the rows mean.
"""

import ast
import hashlib
from pathlib import Path
from typing import NamedTuple

from psycopg import sql
from sqlalchemy import Table
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

import projections
from projections.tables import metadata_of
from services.database import Connection

NAME = "read"
"""This projection's name, and the schema of its views."""
CHANNEL = "computepool_read"
"""NOTIFY tells here the sequence that was just applied."""
_CHANGE_LOCK = 0x67656E00
"""Advisory lock of everyone who makes or swaps generations."""


class Generation(NamedTuple):
    """`sequence` is the last message applied, `leaf` its leaf hash (None at 0)."""

    number: int
    schema: str
    fingerprint: str
    status: str
    sequence: int
    leaf: bytes | None


class GenerationOutdated(Exception):
    """generation_outdated: the live rows were written by other projections than this program's;
    run `computepool projection rebuild`.
    """

    code = "generation_outdated"


class Fenced(Exception):
    """projection_fenced: another process moved the checkpoint, or the generation is no longer live."""

    code = "projection_fenced"


def fingerprint() -> str:
    """Names this version of the projections: a hash of their code without comments and docstrings."""
    digest = hashlib.sha256()
    for module in sorted(Path(projections.__file__).parent.glob("*.py")):
        tree = ast.parse(module.read_bytes())
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list):
                node.body = [line for line in body if not _is_text(line)]  # type: ignore[attr-defined]
        digest.update(module.name.encode() + b"\0" + ast.dump(tree).encode() + b"\0")
    return digest.hexdigest()[:16]


def _is_text(line: object) -> bool:
    return (
        isinstance(line, ast.Expr)
        and isinstance(line.value, ast.Constant)
        and isinstance(line.value.value, str)
    )


async def live(connection: Connection) -> Generation | None:
    """The generation that readers see."""
    return await _one(connection, "status = 'live'", ())


async def generation(connection: Connection, number: int) -> Generation | None:
    return await _one(connection, "generation = %s", (number,))


async def retired(connection: Connection) -> Generation | None:
    """The one that was live before, kept for a rollback."""
    return await _one(connection, "status = 'retired'", ())


async def _one(connection: Connection, where: str, values: tuple[object, ...]) -> Generation | None:
    found = await connection.execute(
        sql.SQL(
            "SELECT generation, schema_name, fingerprint, status, sequence, leaf FROM projection_generations "
            "WHERE name = %s AND {} ORDER BY generation DESC LIMIT 1"
        ).format(sql.SQL(where)),
        (NAME, *values),
    )
    row = await found.fetchone()
    return None if row is None else Generation(*row)


async def lock_changes(connection: Connection) -> None:
    """Wait for the right to make or swap generations; held until the transaction ends."""
    await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_CHANGE_LOCK,))


async def create(connection: Connection, *, building: bool) -> Generation:
    """A new empty generation: live at once, or `building`: tables UNLOGGED and without secondary indexes.

    In the caller's transaction, which holds `lock_changes`.
    """
    found = await connection.execute(
        "SELECT coalesce(max(generation), 0) + 1 FROM projection_generations WHERE name = %s", (NAME,)
    )
    row = await found.fetchone()
    assert row is not None
    number = int(row[0])
    made = Generation(number, f"{NAME}_{number}", fingerprint(), "building" if building else "live", 0, None)
    await connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(made.schema)))
    await connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(made.schema)))
    for table in metadata_of(made.schema).sorted_tables:
        await connection.execute(_ddl(CreateTable(table)).encode())
        if building:
            await connection.execute(sql.SQL("ALTER TABLE {} SET UNLOGGED").format(_name(table)))
        else:
            await _index(connection, table)
    await connection.execute(
        "INSERT INTO projection_generations (name, generation, schema_name, fingerprint, status) "
        "VALUES (%s, %s, %s, %s, %s)",
        (NAME, number, made.schema, made.fingerprint, made.status),
    )
    if not building:
        await show(connection, made)
    return made


async def finish(connection: Connection, built: Generation) -> None:
    """After the bulk of a build: secondary indexes, durable tables, statistics."""
    for table in metadata_of(built.schema).sorted_tables:
        await _index(connection, table)
        await connection.execute(sql.SQL("ALTER TABLE {} SET LOGGED").format(_name(table)))
        await connection.execute(sql.SQL("ANALYZE {}").format(_name(table)))


async def show(connection: Connection, shown: Generation) -> None:
    """Point the views in `read` at a generation, in the caller's transaction."""
    await connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(NAME)))
    await connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(NAME)))
    for table in metadata_of(shown.schema).sorted_tables:
        await connection.execute(
            sql.SQL("CREATE VIEW {} AS SELECT * FROM {}").format(
                sql.Identifier(NAME, table.name), _name(table)
            )
        )


async def swap(connection: Connection, old: Generation | None, new: Generation) -> None:
    """Make `new` live and keep `old` as the one to roll back to, in the caller's transaction.

    Whatever was kept before is dropped.
    """
    kept = await retired(connection)
    if kept is not None and kept.number != new.number:
        await drop(connection, kept)
    if old is not None:
        await _set_status(connection, old, "retired")
    await _set_status(connection, new, "live")
    await show(connection, new)
    await connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, str(new.sequence)))


async def drop(connection: Connection, gone: Generation) -> None:
    """Remove a generation that is not live, rows and checkpoint."""
    await connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(gone.schema)))
    await connection.execute(
        "DELETE FROM projection_generations WHERE name = %s AND generation = %s AND status <> 'live'",
        (NAME, gone.number),
    )


async def drop_unfinished(connection: Connection) -> None:
    """Builds that were cut off: UNLOGGED tables may have lost rows, so they are never continued."""
    while (left := await _one(connection, "status = 'building'", ())) is not None:
        await drop(connection, left)


async def _set_status(connection: Connection, changed: Generation, status: str) -> None:
    await connection.execute(
        "UPDATE projection_generations SET status = %s, moved_at = now() WHERE name = %s AND generation = %s",
        (status, NAME, changed.number),
    )


async def advance(connection: Connection, at: Generation, sequence: int, leaf: bytes) -> Generation:
    """Move the checkpoint, in the transaction that wrote the rows. Raises Fenced."""
    moved = await connection.execute(
        "UPDATE projection_generations SET sequence = %s, leaf = %s, moved_at = now() "
        "WHERE name = %s AND generation = %s AND status = %s AND sequence = %s",
        (sequence, leaf, NAME, at.number, at.status, at.sequence),
    )
    if moved.rowcount != 1:
        raise Fenced(f"generation {at.number} is not {at.status} at {at.sequence} any more")
    return at._replace(sequence=sequence, leaf=leaf)


async def _index(connection: Connection, table: Table) -> None:
    for index in sorted(table.indexes, key=lambda index: str(index.name)):
        await connection.execute(_ddl(CreateIndex(index)).encode())


def _ddl(element: CreateTable | CreateIndex) -> str:
    return str(element.compile(dialect=postgresql.dialect()))  # type: ignore[no-untyped-call]


def _name(table: Table) -> sql.Identifier:
    assert table.schema is not None
    return sql.Identifier(table.schema, table.name)
