"""Rebuilds the read model beside the live one, compares both at one sequence, swaps them without downtime.

Knows nothing of what the rows mean. The live generation is read and followed by everyone until the swap.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import NamedTuple

from psycopg import sql

from projections.tables import KEYS
from services import bus, generations
from services.database import Connection, connect, database_url
from services.generations import NAME, Generation
from services.log import EventLog
from services.projector import apply, batches, verified
from services.row_writer import RowWriter
from services.settings import Settings

CLOSE_ENOUGH = 100
"""With fewer messages than this to go, the swap may begin."""
OLD_CATCHES_UP_S = 5.0
"""How long a live generation that is behind gets before it is taken for standing still."""
_REBUILD_LOCK = 0x72656275


class RebuildRunning(Exception):
    """rebuild_running: another rebuild is at work on this database; wait for it."""

    code = "rebuild_running"


class NothingToRollBack(Exception):
    """nothing_to_roll_back: no earlier generation is kept; rebuild instead."""

    code = "nothing_to_roll_back"


class Progress(NamedTuple):
    """Where a rebuild is: `phase` replay | index | tail | compare | swap; sequences in the log."""

    phase: str
    sequence: int
    head: int


class RebuildReport(NamedTuple):
    """`compared_at`: the sequence at which both were compared (None: the live one was absent or stood still).

    `differences` names tables. With the same projections, one keeps the old generation live unless accepted.
    """

    generation: int
    previous: int | None
    sequence: int
    events: int
    seconds: float
    compared_at: int | None
    differences: tuple[str, ...]
    swapped: bool


async def rebuild(
    settings: Settings, progress: Callable[[Progress], None], *, accept_differences: bool = False
) -> RebuildReport:
    """Zero downtime; the old generation is kept for `rollback`.

    Raises RebuildRunning and whatever halts a projector.
    """
    url = database_url(settings)
    client = await bus.connect(settings, "projector")
    try:
        events = await EventLog.open(client, None)
        async with await connect(url, "rebuild", autocommit=True) as connection:
            return await _rebuild(connection, url, events, progress, accept_differences)
    finally:
        await bus.close(client)


async def rollback(settings: Settings) -> Generation:
    """Make the kept generation live again; the projector takes it on from where it stood.

    Raises NothingToRollBack.
    """
    async with await connect(database_url(settings), "rollback", autocommit=True) as connection:
        async with connection.transaction():
            await generations.lock_changes(connection)
            old, kept = await _frozen_live(connection), await generations.retired(connection)
            if kept is None:
                raise NothingToRollBack
            await generations.swap(connection, old, kept)
        return kept._replace(status="live")


async def _rebuild(
    connection: Connection,
    url: str,
    events: EventLog,
    progress: Callable[[Progress], None],
    accept_differences: bool,
) -> RebuildReport:
    started = time.monotonic()
    found = await connection.execute("SELECT pg_try_advisory_lock(%s)", (_REBUILD_LOCK,))
    if (await found.fetchone()) != (True,):
        raise RebuildRunning
    async with connection.transaction():
        await generations.lock_changes(connection)
        await generations.drop_unfinished(connection)
        new = await generations.create(connection, building=True)
    build = _Build(connection, events, new, progress)
    await build.replay("replay")
    progress(Progress("index", build.at.sequence, build.at.sequence))
    async with connection.transaction():
        await generations.finish(connection, new)
    while await events.last_sequence() - build.at.sequence > CLOSE_ENOUGH:
        await build.replay("tail")
    async with await connect(url, "rebuild-swap", autocommit=True) as swapping:
        await _let_old_catch_up(swapping, build.at.sequence)
        async with swapping.transaction():
            await generations.lock_changes(swapping)
            old = await _frozen_live(swapping)
            compared_at, differences = None, tuple[str, ...]()
            if old is not None and old.sequence >= build.at.sequence:
                await build.replay("tail", up_to=old.sequence)
                progress(Progress("compare", build.at.sequence, old.sequence))
                compared_at = old.sequence
                differences = await _differences(swapping, old, build.at)
            same_code = old is not None and old.fingerprint == new.fingerprint
            swapped = accept_differences or not (differences and same_code)
            if swapped:
                progress(Progress("swap", build.at.sequence, build.at.sequence))
                await generations.swap(swapping, old, build.at)
            else:
                await generations.drop(swapping, build.at)
    return RebuildReport(
        new.number,
        None if old is None else old.number,
        build.at.sequence,
        build.events,
        time.monotonic() - started,
        compared_at,
        differences,
        swapped,
    )


class _Build:
    """The generation being built, and where it stands."""

    def __init__(
        self,
        connection: Connection,
        events: EventLog,
        at: Generation,
        progress: Callable[[Progress], None],
    ) -> None:
        self.at = at
        self.events = 0
        self._connection = connection
        self._log = events
        self._progress = progress
        self._writer = RowWriter(at.schema)

    async def replay(self, phase: str, up_to: int | None = None) -> None:
        """Apply what the log holds now, or exactly up to a sequence."""
        if up_to is not None and up_to <= self.at.sequence:
            return
        head = await self._log.last_sequence() if up_to is None else up_to
        runs = batches(verified(self._log, self.at, follow=False))
        async with contextlib.aclosing(runs):
            async for messages in runs:
                wanted = [message for message in messages if message.sequence <= head]
                if wanted:
                    self.at, count = await apply(self._connection, self._writer, self.at, wanted)
                    self.events += count
                    self._progress(Progress(phase, self.at.sequence, head))
                if self.at.sequence >= head:
                    return


async def _frozen_live(connection: Connection) -> Generation | None:
    """The live generation, its checkpoint locked: the projector waits until this transaction ends."""
    await connection.execute(
        "SELECT 1 FROM projection_generations WHERE name = %s AND status = 'live' FOR UPDATE", (NAME,)
    )
    return await generations.live(connection)


async def _let_old_catch_up(connection: Connection, sequence: int) -> None:
    deadline = time.monotonic() + OLD_CATCHES_UP_S
    while time.monotonic() < deadline:
        old = await generations.live(connection)
        if old is None or old.sequence >= sequence:
            return
        await asyncio.sleep(0.05)


async def _differences(connection: Connection, old: Generation, new: Generation) -> tuple[str, ...]:
    """Tables whose rows are not the same in both, by the columns that both have."""
    found = []
    for table in KEYS:
        columns = await _shared_columns(connection, table, old, new)
        sums = [await _checksum(connection, each.schema, table, columns) for each in (old, new)]
        if sums[0] != sums[1]:
            found.append(f"{table}: {sums[0][0]} rows before, {sums[1][0]} now, other contents")
    return tuple(found)


async def _shared_columns(connection: Connection, table: str, old: Generation, new: Generation) -> list[str]:
    found = await connection.execute(
        "SELECT column_name FROM information_schema.columns WHERE table_schema IN (%s, %s) "
        "AND table_name = %s GROUP BY column_name HAVING count(*) = 2 ORDER BY column_name",
        (old.schema, new.schema, table),
    )
    return [str(name) for (name,) in await found.fetchall()]


async def _checksum(connection: Connection, schema: str, table: str, columns: list[str]) -> tuple[int, int]:
    """(rows, sum of the rows' hashes): the same for the same rows in any order."""
    if not columns:
        return 0, 0
    found = await connection.execute(
        sql.SQL(
            "SELECT count(*), coalesce(sum(hashtextextended(ROW({})::text, 0)::numeric), 0) FROM {}"
        ).format(sql.SQL(", ").join(map(sql.Identifier, columns)), sql.Identifier(schema, table))
    )
    row = await found.fetchone()
    assert row is not None
    return int(row[0]), int(row[1])
