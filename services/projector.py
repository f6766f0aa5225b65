"""The projector: folds the event log into PostgreSQL, each batch and its checkpoint in one transaction.

One process, `python -m services.projector`. It never skips: what it can't account for ends it with exit
status 3 and one clear line. Knows nothing of what the rows mean (`projections` does) or of who reads them.
"""

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from typing import NamedTuple

import psycopg
import structlog

from events.envelope import MalformedCommit, UnknownEventType, decode_commit
from events.merkle import leaf_bytes, leaf_hash
from projections.changes import ProjectionBroken
from projections.read_model import fold
from services import bus, generations
from services.database import AWAY, Connection, connect, database_url
from services.generations import CHANNEL, Fenced, Generation, GenerationOutdated
from services.log import EventLog, Gap, LogRolledBack, LogUnavailable, StoredMessage
from services.logging import configure
from services.row_writer import RowWriter
from services.settings import Settings

BATCH_MESSAGES = 20_000
BATCH_LINGER_S = 0.005
STANDBY_POLL_S = 0.2
_PROJECTOR_LOCK = 0x70726F6A
"""Session advisory lock of the projector at work; a second one stands by. (Correctness is the fence's.)"""
EXIT_HALTED = 3

log = structlog.get_logger("projector")


class LeafMismatch(Exception):
    """leaf_mismatch: the checkpointed message is not the one that was applied; the log was altered.
    Restore the log from a copy; never rebuild over it.
    """

    code = "leaf_mismatch"


HALTS = (
    Gap,
    LogRolledBack,
    LeafMismatch,
    MalformedCommit,
    UnknownEventType,
    ProjectionBroken,
    GenerationOutdated,
    UnicodeDecodeError,
    psycopg.IntegrityError,
    psycopg.DataError,
    psycopg.ProgrammingError,
)
"""What must never be retried or skipped."""


class Applied(NamedTuple):
    """`sequence` of the last message applied; `events` in the batch that ended there."""

    sequence: int
    events: int


def leaf_of(message: StoredMessage) -> bytes:
    """The Merkle leaf hash of a stored message (32 bytes)."""
    return leaf_hash(leaf_bytes(*message))


async def verified(events: EventLog, at: Generation, *, follow: bool) -> AsyncGenerator[StoredMessage, None]:
    """The log after a generation's checkpoint, once the checkpointed message was found unchanged.

    Raises LeafMismatch, LogRolledBack, Gap, LogUnavailable.
    """
    if at.sequence == 0:
        async for message in events.read(0, follow=follow):
            yield message
        return
    head = await events.last_sequence()
    if head < at.sequence:
        raise LogRolledBack(f"the log ends at {head}, the checkpoint stands at {at.sequence}")
    checked = False
    async for message in events.read(at.sequence - 1, follow=follow):
        if checked:
            yield message
            continue
        if leaf_of(message) != at.leaf:
            raise LeafMismatch(f"sequence {at.sequence} is not the message that was applied")
        checked = True


async def batches(
    messages: AsyncIterator[StoredMessage], limit: int = BATCH_MESSAGES, linger_s: float = BATCH_LINGER_S
) -> AsyncGenerator[list[StoredMessage], None]:
    """Runs of up to `limit` messages, each handed on when full or `linger_s` after the source falls silent.

    Whatever `messages` raises comes out after the messages before it.
    """
    queue: asyncio.Queue[StoredMessage | BaseException | None] = asyncio.Queue(limit)

    async def pump() -> None:
        try:
            async for message in messages:
                await queue.put(message)
        except Exception as failed:
            await queue.put(failed)
        else:
            await queue.put(None)

    pumping = asyncio.create_task(pump())
    try:
        end: StoredMessage | BaseException | None = None
        while True:
            item = await queue.get()
            batch: list[StoredMessage] = []
            while isinstance(item, StoredMessage):
                batch.append(item)
                if len(batch) >= limit:
                    break
                if not queue.empty():
                    item = queue.get_nowait()
                    continue
                try:
                    async with asyncio.timeout(linger_s):
                        item = await queue.get()
                except TimeoutError:
                    break
            else:
                end = item
            if batch:
                yield batch
            if isinstance(end, BaseException):
                raise end
            if not isinstance(item, StoredMessage):
                return
    finally:
        await _cancelled(pumping)


async def _cancelled(task: "asyncio.Task[None]") -> None:
    """Cancel until it has ended: `asyncio.wait_for` of Python 3.11 may lose a cancellation."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=0.1)


async def apply(
    connection: Connection, writer: RowWriter, at: Generation, messages: list[StoredMessage]
) -> tuple[Generation, int]:
    """Rows, checkpoint and NOTIFY of one batch in one transaction; (where it now stands, events applied).

    Raises Fenced, ProjectionBroken, MalformedCommit, UnknownEventType.
    """
    recorded = [
        event
        for message in messages
        for event in decode_commit(message.subject, message.sequence, message.headers, message.payload)
    ]
    batch = fold(recorded)
    async with connection.transaction():
        moved = await generations.advance(connection, at, messages[-1].sequence, leaf_of(messages[-1]))
        await writer.write(connection, batch)
        await connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, str(moved.sequence)))
    return moved, len(recorded)


async def live_generation(connection: Connection) -> Generation:
    """The live generation, made when there is none yet. Raises GenerationOutdated."""
    async with connection.transaction():
        await generations.lock_changes(connection)
        at = await generations.live(connection)
        if at is None:
            at = await generations.create(connection, building=False)
            log.info("generation_created", generation=at.number)
    if at.fingerprint != generations.fingerprint():
        raise GenerationOutdated(
            f"generation {at.number} is of projections {at.fingerprint}, this program has "
            f"{generations.fingerprint()}: run `computepool projection rebuild`"
        )
    return at


async def follow(connection: Connection, events: EventLog) -> None:
    """Apply the log until cancelled or something raises (HALTS, Fenced, AWAY, LogUnavailable)."""
    await _stand_by(connection)
    at = await live_generation(connection)
    log.info("following", generation=at.number, sequence=at.sequence)
    writer = RowWriter(at.schema)
    async with contextlib.aclosing(batches(verified(events, at, follow=True))) as runs:
        async for messages in runs:
            at, count = await apply(connection, writer, at, messages)
            log.debug("applied", sequence=at.sequence, messages=len(messages), events=count)


async def _stand_by(connection: Connection) -> None:
    """Until no other projector is at work on this database."""
    said = False
    while True:
        found = await connection.execute("SELECT pg_try_advisory_lock(%s)", (_PROJECTOR_LOCK,))
        row = await found.fetchone()
        if row is not None and row[0]:
            return
        if not said:
            log.info("standing_by")
            said = True
        await asyncio.sleep(STANDBY_POLL_S)


async def project(url: str, events: EventLog) -> None:
    """Forever: connect, follow; a database or log that is away is waited for. Raises only HALTS."""
    pause_s, waiting = 0.05, False
    while True:
        try:
            async with await connect(url, "projector", autocommit=True) as connection:
                if waiting:
                    log.info("database_back")
                pause_s, waiting = 0.05, False
                await follow(connection, events)
        except Fenced as fenced:
            log.warning("fenced", why=str(fenced))
        except (*AWAY, LogUnavailable) as away:
            if not waiting:
                log.warning("waiting", why=str(away).strip())
                waiting = True
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, 5.0)


async def run(settings: Settings) -> int:
    """Until SIGTERM or SIGINT (0), or a halt (EXIT_HALTED)."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    client = await bus.connect(settings, "projector")
    events = await EventLog.open(client, None)
    projecting = asyncio.create_task(project(database_url(settings), events))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((projecting, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    await _cancelled(projecting)
    status = 0
    try:
        await projecting
    except asyncio.CancelledError:
        log.info("stopped")
    except HALTS as halted:
        undecodable = isinstance(halted, UnicodeDecodeError)
        code = getattr(halted, "code", "malformed_commit" if undecodable else "projection_broken")
        log.error("halted", code=code, why=str(halted).strip(), remedy=(type(halted).__doc__ or "").strip())
        status = EXIT_HALTED
    await bus.close(client)
    return status


def main() -> None:
    settings = Settings()
    configure(settings.log_level)
    sys.exit(asyncio.run(run(settings)))


if __name__ == "__main__":
    main()
