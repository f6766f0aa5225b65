"""Generations that hold slots while they run: one, or several of one HTTP request in as many slots as are
free.

Knows nothing of shapes. Whatever way one ends, its slot is given back and counted, once.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Sequence

from fastapi import Request

from services.credentials import Principal
from services.gateway.answer import Ended, Piece
from services.gateway.gone import cancel_all, unless_gone
from services.gateway.refusals import GatewayStopping, PoolUnavailable
from services.gateway.relay import Relay, outcome_of
from services.gateway.routing import Route
from services.gateway.sessions import session_of_pool
from services.gateway.state import Gateway
from services.gateway.timings import Timings


class Live:
    """A relay with its slot. `close` gives both back, once, and counts how it ended."""

    def __init__(self, here: Gateway, relay: Relay) -> None:
        self.here, self.relay = here, relay
        self.pieces = relay.pieces()
        self.failure: BaseException | None = None
        self._slot = self._counted = False
        self._arrived_at = time.monotonic()
        self._queue_s = 0.0

    async def start(self, request: Request) -> None:
        """A slot, then the command on its way. Raises TooManyRequests, ClientGone and what the relay
        raises.
        """
        self._count()
        route = self.relay.route
        await unless_gone(request.receive, self.here.slots.acquire(route.pool_id, route.kv_slots))
        self._slot = True
        self._queue_s = time.monotonic() - self._arrived_at
        await self.relay.start()

    def takes_free_slot(self) -> bool:
        """Whether a slot was free right now; then it is this one's."""
        route = self.relay.route
        if not self.here.slots.take_free(route.pool_id, route.kv_slots):
            return False
        self._slot = True
        self._queue_s = time.monotonic() - self._arrived_at
        self._count()
        return True

    async def start_in_slot_of(self, before: "Live") -> None:
        """Start in the slot of one that has ended."""
        self._slot, before._slot = before._slot, False
        self._queue_s = time.monotonic() - self._arrived_at
        self._count()
        await self.relay.start()

    def _count(self) -> None:
        self.here.metrics.in_flight.inc()
        self._counted = True

    async def whole(self) -> list[Piece]:
        return [piece async for piece in self.pieces if piece is not None]

    async def next(self) -> tuple[bool, Piece | None]:
        """(whether there was one, the piece)."""
        try:
            return True, await anext(self.pieces)
        except StopAsyncIteration:
            return False, None

    @property
    def timings(self) -> Timings:
        """Of a generation that ended well."""
        ended, relay = self.relay.ended, self.relay
        assert ended is not None
        return Timings(
            queue_ms=1000 * self._queue_s,
            prefill_ms=ended.prefill_ms,
            ttft_ms=1000 * (relay.first_token_at - self._arrived_at),
            decode_ms=ended.decode_ms,
            total_ms=1000 * (relay.ended_at - self._arrived_at),
            stages=ended.hops,
        )

    async def close(self) -> None:
        if not self._counted:
            return
        self._counted = False
        try:
            await self.pieces.aclose()
            outcome = outcome_of(self.failure, self.relay)
            await self.relay.close(outcome)
        finally:
            self.here.metrics.in_flight.dec()
            if self._slot:
                self.here.slots.release(self.relay.route.pool_id)
        self.here.metrics.requests.labels(self.relay.route.name, outcome).inc()


Said = tuple[int, Piece | Ended | None]
"""(number of the generation, its next piece, or how it ended, or None after a silence)"""


class Several:
    """Generations of one HTTP request. The first waits for a slot, which serves the others in turn;
    besides, as many run as find a slot that nobody else wants.
    """

    def __init__(self, here: Gateway, relays: Sequence[Relay]) -> None:
        self.lives = [Live(here, relay) for relay in relays]
        self.failure: BaseException | None = None
        """Why those that have not ended will not."""
        self._todo = deque(range(1, len(relays)))
        self._news: asyncio.Queue[Said | BaseException] = asyncio.Queue()
        self._lanes: list[asyncio.Task[None]] = []

    async def start(self, request: Request) -> None:
        """Raises what `Live.start` raises."""
        await self.lives[0].start(request)
        self._lanes.append(asyncio.create_task(self._lane(0, keeps_slot=True)))
        while (number := await self._next_in_free_slot()) is not None:
            self._lanes.append(asyncio.create_task(self._lane(number, keeps_slot=False)))

    async def news(self) -> AsyncGenerator[Said, None]:
        """Until all have ended well. Raises the first failure."""
        left = len(self.lives)
        while left:
            said = await self._news.get()
            if isinstance(said, BaseException):
                raise said
            left -= isinstance(said[1], Ended)
            yield said

    async def close(self) -> None:
        await cancel_all(*self._lanes)
        for live in self.lives:
            if live.relay.ended is None:
                live.failure = live.failure or self.failure
            await live.close()

    async def _lane(self, number: int, *, keeps_slot: bool) -> None:
        following: int | None = number
        try:
            while following is not None:
                number = following
                live = self.lives[number]
                async for piece in live.pieces:
                    self._news.put_nowait((number, piece))
                self._news.put_nowait((number, live.relay.ended))
                following = await (self._next_in_slot_of(live) if keeps_slot else self._next_after(live))
        except Exception as failure:
            self._news.put_nowait(failure)

    async def _next_in_slot_of(self, live: Live) -> int | None:
        following = self._todo.popleft() if self._todo else None
        if following is not None:
            await self.lives[following].start_in_slot_of(live)
        await live.close()
        return following

    async def _next_after(self, live: Live) -> int | None:
        await live.close()
        return await self._next_in_free_slot()

    async def _next_in_free_slot(self) -> int | None:
        if not self._todo or not self.lives[self._todo[0]].takes_free_slot():
            return None
        following = self._todo.popleft()
        await self.lives[following].relay.start()
        return following


async def ring_of(here: Gateway, who: Principal | None, model: str, session_id: str | None) -> Route:
    """The ring that serves `model` now, for this caller. Raises everything that can be refused before a
    prompt is looked at: GatewayStopping, ModelNotFound, PoolUnavailable, and about the session.
    """
    if here.stopping.is_set():
        raise GatewayStopping
    route = await here.routing.of_model(model)
    if session_id is not None:
        await session_of_pool(here, who, session_id, route)
    silent = here.heartbeats.silent(route.node_ids)
    if silent is not None:
        raise PoolUnavailable(f"Node {silent} of {route.name} is not heard.")
    return route
