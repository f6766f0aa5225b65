"""How many generations may run at once, per pool and in all, and who waits; knows nothing of what a
request is.
"""

import asyncio
from collections import Counter, deque
from dataclasses import dataclass, field

from services.gateway.refusals import TooManyRequests

WAIT_S = 10.0
"""A request waits so long for a slot before it is answered 429."""


@dataclass
class Slots:
    """First come, first served. At most `in_all` requests hold or wait for a slot; a pool's queue is as
    long as the pool has slots.
    """

    in_all: int
    wait_s: float = WAIT_S
    held: Counter[str] = field(default_factory=Counter)
    waiting: dict[str, deque["asyncio.Future[None]"]] = field(default_factory=dict)

    async def acquire(self, pool_id: str, pool_slots: int) -> None:
        """Take a slot, or wait for one; give it back by `release`. Raises TooManyRequests with Retry-
        After.
        """
        queue = self.waiting.setdefault(pool_id, deque())
        if self.in_flight >= self.in_all:
            raise TooManyRequests(f"{self.in_all} requests are in flight.", headers={"retry-after": "2"})
        if self.held[pool_id] < pool_slots and not queue:
            self.held[pool_id] += 1
            return
        if len(queue) >= max(1, pool_slots):
            raise TooManyRequests(
                f"All {pool_slots} slots of the pool are taken and {len(queue)} requests wait.",
                headers={"retry-after": "5"},
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            done, _ = await asyncio.wait({turn}, timeout=self.wait_s)
        except asyncio.CancelledError:
            self._leave(pool_id, turn)
            raise
        if not done:
            self._leave(pool_id, turn)
            raise TooManyRequests(
                f"No slot became free within {self.wait_s:g} s.", headers={"retry-after": "5"}
            )

    def take_free(self, pool_id: str, pool_slots: int) -> bool:
        """Take a slot only if one is free and nobody waits for it; whether it was."""
        if self.in_flight >= self.in_all or self.held[pool_id] >= pool_slots or self.waiting.get(pool_id):
            return False
        self.held[pool_id] += 1
        return True

    def _leave(self, pool_id: str, turn: "asyncio.Future[None]") -> None:
        if turn.done():
            self.release(pool_id)
        else:
            self.waiting[pool_id].remove(turn)

    def release(self, pool_id: str) -> None:
        """The slot goes to whoever waits longest, else back to the pool."""
        queue = self.waiting.get(pool_id, deque())
        while queue:
            turn = queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.held[pool_id] -= 1
        if not self.held[pool_id]:
            del self.held[pool_id]
            self.waiting.pop(pool_id, None)

    @property
    def in_flight(self) -> int:
        """Requests that hold a slot or wait for one."""
        return sum(self.held.values()) + sum(len(queue) for queue in self.waiting.values())
