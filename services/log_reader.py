"""Follows the event log without a consumer: ranges by direct get, woken by the server's note of each commit.

Knows nothing of what a message says. A hole is an error, never skipped; an outage is waited out.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable

import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg

from events.envelope import EVENTS_STREAM
from services.jetstream import LogUnavailable, RangeReader, StoredMessage
from services.log_head import LogRolledBack
from services.stream_names import COMMITTED_PREFIX

log = structlog.get_logger("log")

ATTEMPT_S = 2.0
"""How long one request waits for its answer."""
IDLE_CHECK_S = 1.0
"""A reader without news compares its position with the leader's so often."""
PATIENCE = 40
"""So often a reader asks again before it believes that a replica is not just behind."""


class Gap(Exception):
    """log_gap: a sequence or version is missing in the log; stop, and restore it from a copy: never skip."""

    code = "log_gap"


class LogReader:
    """One pass over the log; `get` and `last_sequence` ask the server as the log's owner may."""

    def __init__(
        self,
        client: Client,
        get: Callable[[dict[str, object]], Awaitable[StoredMessage | None]],
        last_sequence: Callable[[], Awaitable[int]],
    ) -> None:
        self._client = client
        self._get = get
        self._last_sequence = last_sequence

    async def read(
        self, after_sequence: int, follow: bool, batch: int
    ) -> AsyncGenerator[StoredMessage, None]:
        """See `EventLog.read`."""
        rung = asyncio.Event()

        async def ring(_: Msg) -> None:
            rung.set()

        doorbell = await self._client.subscribe(f"{COMMITTED_PREFIX}.>", cb=ring) if follow else None
        try:
            async with RangeReader(self._client, EVENTS_STREAM) as reader:
                last = after_sequence
                while True:
                    rung.clear()
                    run = await self._next_run(reader, last, batch, follow)
                    for message in run:
                        last = message.sequence
                        yield message
                    if run:
                        continue
                    if not follow:
                        return
                    if not rung.is_set():
                        await _rung_within(rung, IDLE_CHECK_S)
        finally:
            if doorbell is not None and not self._client.is_closed:
                await doorbell.unsubscribe()

    async def _next_run(
        self, reader: RangeReader, last: int, batch: int, follow: bool
    ) -> list[StoredMessage]:
        """The messages after `last`; [] when the leader has no more."""
        failures = 0
        while True:
            try:
                run = await reader.read(last + 1, batch, ATTEMPT_S)
                for expected, message in enumerate(run, last + 1):
                    if message.sequence != expected:
                        raise Gap(f"sequence {expected} is missing: {message.sequence} follows")
                if run:
                    return run
                head = await self._last_sequence()
                if head == last:
                    return []
                failures += 1
                if failures > PATIENCE and head < last:
                    raise LogRolledBack(f"the log ends at {head}; {last} was read from it")
                if failures > PATIENCE and await self._get({"seq": last + 1}) is None:
                    raise Gap(f"sequence {last + 1} is missing: the log ends at {head}")
                await asyncio.sleep(0.01 if failures < 20 else 0.1)
            except LogUnavailable as away:
                failures += 1
                if self._client.is_closed or (not follow and failures >= 3):
                    raise
                log.warning("read_delayed", after=last, why=str(away))
                await asyncio.sleep(min(0.05 * failures, 1.0))


async def _rung_within(rung: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await rung.wait()
