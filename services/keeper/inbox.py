"""Callbacks that proved who sends them: the gateway puts each in once, the keeper reads what is new.

A notification wakes the reader, and polling finds what a lost one would have told. Nothing here believes a
callback: it is a hint to look at a run. Knows no HTTP and no chain.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any, Literal

import psycopg
import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from services.database import AWAY, ENGINE_AWAY

CHANNEL = "webhook_inbox"
POLL_S = 2.0
PAUSE_S = 1.0
MOST_AT_ONCE = 200
MOST_TALES = 16
"""So many different bodies one capability may tell of one event: false ones can't fill the table."""
KEPT_DAYS = 7
"""Much longer than a signature or a capability is good for, so nothing that was taken is taken again."""

Outcome = Literal["applied", "stale", "mismatch", "unknown_run"]
Taken = Literal["accepted", "duplicate", "crowded"]

log = structlog.get_logger("inbox")


@dataclass(frozen=True)
class Hint:
    """What somebody said of a run. `number`: the order of arrival, nearly."""

    number: int
    proof: str
    delivery: str
    run_key: str
    event: str
    transaction_hash: str | None
    received_unix_ms: int


@dataclass(frozen=True)
class Received(Hint):
    """`outcome` None: the keeper has not judged it yet."""

    outcome: str | None


class Inbox:
    """`poll_s`: how long a hint whose notification was lost may lie."""

    def __init__(self, engine: AsyncEngine, poll_s: float = POLL_S) -> None:
        self._engine, self._poll_s = engine, poll_s

    async def take(
        self,
        *,
        proof: str,
        delivery: str,
        key_id: str | None,
        execution: str,
        run_key: str,
        event: str,
        transaction_hash: str | None,
    ) -> Taken:
        """Durable when this returns. A capability that is burnt for this event tells nothing new."""
        told = {"proof": proof, "event": event, "delivery": delivery}
        async with self._engine.begin() as connection:
            known = await connection.execute(_KNOWN, told)
            if known.first() is not None:
                return "duplicate"
            if key_id is None and (await connection.execute(_TALES, told)).scalar_one() >= MOST_TALES:
                return "crowded"
            values = {
                **told,
                "key_id": key_id,
                "execution": execution,
                "run_key": run_key,
                "hash": transaction_hash,
            }
            if (await connection.execute(_TAKE, values)).first() is None:
                return "duplicate"
            await connection.execute(text(f"SELECT pg_notify('{CHANNEL}', '')"))
        return "accepted"

    async def hints(self) -> AsyncGenerator[Hint, None]:
        """Forever, oldest first: what is not marked, again at every poll. A database that is away is waited
        for.
        """
        while True:
            try:
                async with self._listening() as connection:
                    while True:
                        after = 0
                        while found := await self.unmarked(after):
                            for hint in found:
                                yield hint
                            after = found[-1].number
                        await self._woken(connection)
            except (*AWAY, *ENGINE_AWAY) as away:
                log.warning("inbox_away", why=str(away)[:200])
            await asyncio.sleep(PAUSE_S)

    async def unmarked(self, after: int = 0) -> list[Hint]:
        """The oldest MOST_AT_ONCE of those behind number `after` that nobody has marked."""
        async with self._engine.connect() as connection:
            rows = (await connection.execute(_UNMARKED, {"after": after, "most": MOST_AT_ONCE})).all()
        return [Hint(*row) for row in rows]

    async def newest(self, limit: int) -> list[Received]:
        async with self._engine.connect() as connection:
            rows = (await connection.execute(_NEWEST, {"limit": limit})).all()
        return [Received(*row) for row in rows]

    async def newest_run(self, event: str) -> str | None:
        """The run that told this event last. None: no run has."""
        async with self._engine.connect() as connection:
            found = await connection.execute(_NEWEST_RUN, {"event": event})
            return found.scalar_one_or_none()

    async def mark(self, hint: Hint, outcome: Outcome) -> None:
        """For good. `applied` burns the capability that told it, for this event."""
        async with self._engine.begin() as connection:
            marked = await connection.execute(_MARK, {"number": hint.number, "outcome": outcome})
            if marked.rowcount and outcome == "applied":
                await connection.execute(_BURN, {"number": hint.number})

    async def prune(self) -> int:
        """Forget what is older than KEPT_DAYS; how many callbacks."""
        async with self._engine.begin() as connection:
            await connection.execute(_PRUNE_TOKENS, {"days": KEPT_DAYS})
            return (await connection.execute(_PRUNE, {"days": KEPT_DAYS})).rowcount

    @contextlib.asynccontextmanager
    async def _listening(self) -> AsyncIterator["psycopg.AsyncConnection[Any]"]:
        """A connection of its own that hears notifications."""
        url = self._engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            await connection.execute(f"LISTEN {CHANNEL}")
            yield connection

    async def _woken(self, connection: "psycopg.AsyncConnection[Any]") -> None:
        """By a notification, or because it is time to look anyway."""
        async for _ in connection.notifies(timeout=self._poll_s, stop_after=1):
            return


_KNOWN = text(
    "SELECT 1 FROM webhook_inbox WHERE proof = :proof AND delivery = :delivery"
    " UNION ALL SELECT 1 FROM webhook_tokens WHERE nonce = :proof AND event = :event LIMIT 1"
)
_TALES = text("SELECT count(*) FROM webhook_inbox WHERE proof = :proof AND event = :event")
_TAKE = text(
    "INSERT INTO webhook_inbox (proof, delivery, key_id, execution, run_key, event, transaction_hash)"
    " VALUES (:proof, :delivery, :key_id, :execution, :run_key, :event, :hash)"
    " ON CONFLICT DO NOTHING RETURNING number"
)
_UNMARKED = text(
    "SELECT number, proof, delivery, run_key, event, transaction_hash,"
    " (extract(epoch FROM received_at) * 1000)::bigint"
    " FROM webhook_inbox WHERE outcome IS NULL AND number > :after ORDER BY number LIMIT :most"
)
_NEWEST = text(
    "SELECT number, proof, delivery, run_key, event, transaction_hash,"
    " (extract(epoch FROM received_at) * 1000)::bigint, outcome"
    " FROM webhook_inbox ORDER BY number DESC LIMIT :limit"
)
_NEWEST_RUN = text("SELECT run_key FROM webhook_inbox WHERE event = :event ORDER BY number DESC LIMIT 1")
_MARK = text(
    "UPDATE webhook_inbox SET outcome = :outcome, marked_at = now()"
    " WHERE number = :number AND outcome IS NULL"
)
_BURN = text(
    "INSERT INTO webhook_tokens (nonce, event) SELECT proof, event FROM webhook_inbox"
    " WHERE number = :number AND key_id IS NULL ON CONFLICT DO NOTHING"
)
_PRUNE = text("DELETE FROM webhook_inbox WHERE received_at < now() - make_interval(days => :days)")
_PRUNE_TOKENS = text("DELETE FROM webhook_tokens WHERE burnt_at < now() - make_interval(days => :days)")
