"""GET /feed: the event log as server-sent events, live, resumable by position; knows nothing of the read
model.

Who sees what: an operator every event; an API key those of nodes and pools, and of the sessions that it
opened.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
import structlog
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from events import session
from events.envelope import DECIDERS, POSITION_STRIDE, Recorded, decode_commit
from services.credentials import Principal
from services.gateway import meters, sse
from services.gateway.auth import Here, Payer
from services.gateway.problems import problem_body
from services.gateway.refusals import InvalidRequest, LogHalted, Problem, TooManyFeeds
from services.gateway.request_id import current_request_id
from services.gateway.state import Gateway
from services.log import Gap, LogRolledBack, LogUnavailable, StoredMessage
from services.readmodel import ReadModelAway

router = APIRouter(tags=["Feed"])
log = structlog.get_logger("gateway")

HEARTBEAT_S = 15.0
METER_S = 1.0
MOST_METERS = 20
MAX_FEEDS = 64
MAX_PAYERS = 4096


@router.get("/feed", summary="Events of the log, live (server-sent events)", response_model=None)
async def feed(
    request: Request,
    here: Here,
    who: Payer,
    from_: Annotated[
        int | None,
        Query(alias="from", ge=0, le=2**53, description="first log sequence; default: from now on"),
    ] = None,
    kind: Annotated[str | None, Query(description=f"one of {', '.join(DECIDERS)}")] = None,
    type_: Annotated[
        str | None, Query(alias="type", max_length=64, description='an event type, e.g. "session.opened.v1"')
    ] = None,
    metered: Annotated[
        bool, Query(alias="meters", description="also a `meter` a second for each session that streams")
    ] = False,
) -> Response:
    """`Last-Event-ID` (a position) goes on after that event, and wins over `from`. Meters have no id."""
    if kind is not None and kind not in DECIDERS:
        raise InvalidRequest(f"kind is one of {', '.join(DECIDERS)}.", param="kind")
    seen = _seen(request.headers.get("last-event-id"))
    if here.feeds >= MAX_FEEDS:
        raise TooManyFeeds
    if seen is not None:
        after = max(0, seen // POSITION_STRIDE - 1)
    elif from_ is not None:
        after = max(0, from_ - 1)
    else:
        after = await here.events.last_sequence()
    here.feeds += 1
    here.metrics.feeds.set(here.feeds)

    async def close() -> None:
        here.feeds -= 1
        here.metrics.feeds.set(here.feeds)

    eyes = Eyes(here, who, -1 if seen is None else seen, kind, type_)
    return sse.EventStream(_frames(here, eyes, after, metered), close)


def _seen(given: str | None) -> int | None:
    if given is None:
        return None
    if not (given.isascii() and given.isdigit() and len(given) <= 18):
        raise InvalidRequest("Last-Event-ID is the id of an event of this feed.", param="last-event-id")
    return int(given)


class Eyes:
    """Which events one reader is shown."""

    def __init__(self, here: Gateway, who: Principal, seen: int, kind: str | None, type_: str | None) -> None:
        self._here, self._who, self._seen, self._kind, self._type = here, who, seen, kind, type_
        self._payers: OrderedDict[str, str] = OrderedDict()

    async def may_see(self, recorded: Recorded) -> bool:
        if recorded.position <= self._seen:
            return False
        if self._kind not in (None, recorded.kind) or self._type not in (None, recorded.type):
            return False
        if self._who.is_operator or recorded.kind in ("node", "pool"):
            return True
        if self._who.kind == "session":
            return recorded.kind == "session" and recorded.aggregate_id == self._who.id
        return recorded.kind == "session" and await self._payer(recorded) == self._who.payer

    async def streaming(self) -> list[str]:
        """The paid sessions whose meters are shown: an operator's all (up to a limit), a key's own."""
        if not self._who.is_operator and self._who.kind != "session":
            return []
        flowing = await self._here.rows.flowing(MOST_METERS)
        return [one for one in flowing if self._who.is_operator or one == self._who.id]

    async def _payer(self, recorded: Recorded) -> str:
        """Who opened the session; from its own first event, remembered for a while."""
        session_id = recorded.aggregate_id
        if isinstance(recorded.event, session.Opened):
            self._payers[session_id] = recorded.event.payer
        elif session_id not in self._payers:
            history = await self._here.events.history("session", session_id)
            first = history.recorded[0].event if history.recorded else None
            self._payers[session_id] = first.payer if isinstance(first, session.Opened) else ""
        self._payers.move_to_end(session_id)
        if len(self._payers) > MAX_PAYERS:
            self._payers.popitem(last=False)
        return self._payers.get(session_id, "")


async def _frames(here: Gateway, eyes: Eyes, after: int, metered: bool) -> AsyncIterator[bytes]:
    messages: Any = here.events.read(after)
    stopping = asyncio.create_task(here.stopping.wait())
    coming: asyncio.Task[StoredMessage] | None = None
    read_at, beat_at = 0.0, time.monotonic() + HEARTBEAT_S
    try:
        yield b": feed\n\n"
        while not here.stopping.is_set():
            coming = coming or asyncio.ensure_future(_next(messages))
            pause_s = METER_S if metered else HEARTBEAT_S
            await asyncio.wait({coming, stopping}, timeout=pause_s, return_when=asyncio.FIRST_COMPLETED)
            if metered and time.monotonic() >= read_at:
                read_at = time.monotonic() + METER_S
                if shown := await _meters(here, eyes):
                    yield shown
            if not coming.done():
                if not metered or time.monotonic() >= beat_at:
                    beat_at = time.monotonic() + HEARTBEAT_S
                    yield sse.KEEP_ALIVE
                continue
            message, coming = coming.result(), None
            for recorded in decode_commit(*message):
                if await eyes.may_see(recorded):
                    yield _event(recorded)
    except (Gap, LogRolledBack) as broken:
        log.error("feed_halted", why=str(broken))
        yield _failed(LogHalted(str(broken)))
    finally:
        for task in (stopping, coming):
            if task is not None:
                task.cancel()
        await asyncio.gather(*(task for task in (stopping, coming) if task), return_exceptions=True)
        await messages.aclose()


async def _meters(here: Gateway, eyes: Eyes) -> bytes:
    """One event a session; while the chain, the log or the read model is away, a comment."""
    try:
        streaming = await eyes.streaming()
        now_unix_s = await meters.chain_second(here) if streaming else 0
        found = [await meters.read(here, session_id, now_unix_s) for session_id in streaming]
    except (Problem, LogUnavailable, ReadModelAway):
        return sse.KEEP_ALIVE
    return b"".join(sse.event(msgspec.json.encode(one), name="meter") for one in found)


async def _next(messages: Any) -> StoredMessage:
    found: StoredMessage = await anext(messages)
    return found


def _event(recorded: Recorded) -> bytes:
    shown = {
        "position": recorded.position,
        "sequence": recorded.sequence,
        "kind": recorded.kind,
        "aggregate_id": recorded.aggregate_id,
        "version": recorded.version,
        "type": recorded.type,
        "time_unix_ms": recorded.time_unix_ms,
        "event_id": recorded.event_id,
        "command_id": recorded.command_id,
        "correlation_id": recorded.correlation_id,
        "causation_id": recorded.causation_id,
        "writer": recorded.writer,
        "data": recorded.event,
    }
    return sse.event(msgspec.json.encode(shown), name=recorded.type, event_id=str(recorded.position))


def _failed(problem: Problem) -> bytes:
    body = problem_body(problem, current_request_id())
    return sse.event(msgspec.json.encode(body), name="error")
