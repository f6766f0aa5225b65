"""How often a request is sent again, and when: what KeeperHub's headers ask, and no key ever rotated.

Knows no transport: it is given what sends the request.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import structlog

from services.keeper.backend import BackendAway
from services.keeper.hosted.keys import masked
from services.keeper.hosted.replies import IN_PROGRESS, Reply, refusal_of, seconds

log = structlog.get_logger("keeperhub")


class Lost(Exception):
    """The transport gave no answer; whether the request was taken is unknown."""


@dataclass(frozen=True)
class Patience:
    """The pauses double from `first_s` (KH: docs/api/errors.md, "Retry Strategy"), and are never longer."""

    attempts: int = 5
    first_s: float = 1.0
    longest_s: float = 30.0


class Pace:
    """Holds requests back when the budget that the server announced is used up."""

    def __init__(self, longest_s: float) -> None:
        self._longest_s = longest_s
        self._not_before = 0.0

    def heard(self, headers: Mapping[str, str]) -> None:
        """`X-RateLimit-Reset` is in Unix seconds, by the server's clock."""
        reset = seconds(headers.get("x-ratelimit-reset"), 0.0)
        if headers.get("x-ratelimit-remaining", "").strip() == "0" and reset is not None:
            ahead = min(max(0.0, reset - time.time()), self._longest_s)
            self._not_before = time.monotonic() + ahead

    async def turn(self) -> None:
        ahead = self._not_before - time.monotonic()
        if ahead > 0:
            await asyncio.sleep(ahead)


async def patiently(
    send: Callable[[], Awaitable[Reply]], patience: Patience, what: str, *, repeatable: bool = True
) -> Reply:
    """The first 2xx reply. `repeatable`: sending it twice is the same as once.

    Raises BackendRefused, and BackendAway when it is not known what became of the request.
    """
    backoff_s = patience.first_s
    for attempt in range(1, patience.attempts + 1):
        last = attempt == patience.attempts
        pause_s = backoff_s
        try:
            reply = await send()
        except Lost as lost:
            why = masked(str(lost))
            if last or not repeatable:
                raise BackendAway(f"{what}: {why}") from lost
        else:
            if reply.answered:
                return reply
            refusal = refusal_of(reply)
            why = f"{reply.status} {refusal}" if reply.usable else f"{reply.status} without JSON"
            asked_s = reply.retry_after_s
            if reply.passing:
                if last or not repeatable:
                    raise BackendAway(f"{what}: {why}, request {refusal.request_id or 'without an id'}")
            elif reply.status == 429 or refusal.code == IN_PROGRESS:
                # Neither took the request: it may be sent again whatever it is, under the same key.
                if last or (asked_s or 0.0) > patience.longest_s:
                    raise refusal
            else:
                raise refusal
            pause_s = backoff_s if asked_s is None else min(asked_s, patience.longest_s)
        log.info("again", what=what, attempt=attempt, why=why[:200], pause_s=round(pause_s, 3))
        await asyncio.sleep(pause_s)
        backoff_s = min(2 * backoff_s, patience.longest_s)
    raise AssertionError("the last attempt returns or raises")
