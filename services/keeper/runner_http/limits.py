"""How many requests a key may send in a minute, over a window that slides; knows no key."""

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

WINDOW_S = 60.0


@dataclass(frozen=True)
class Budget:
    """What is left, as KeeperHub's headers say it (KH: docs/api/errors.md, "Rate-limit headers")."""

    limit: int
    remaining: int
    reset_unix_s: int
    retry_after_s: int | None

    @property
    def headers(self) -> dict[str, str]:
        found = {
            "X-RateLimit-Limit": str(self.limit),
            "X-RateLimit-Remaining": str(self.remaining),
            "X-RateLimit-Reset": str(self.reset_unix_s),
        }
        return found if self.retry_after_s is None else {**found, "Retry-After": str(self.retry_after_s)}


@dataclass
class Limit:
    """`clock`: seconds, monotonic."""

    per_minute: int
    clock: Callable[[], float] = time.monotonic
    _taken: dict[str, deque[float]] = field(default_factory=dict)

    def take(self, who: str) -> Budget:
        """One request of theirs; `retry_after_s` is set when it is one too many."""
        now = self.clock()
        taken = self._taken.setdefault(who, deque())
        while taken and taken[0] <= now - WINDOW_S:
            taken.popleft()
        if refused := len(taken) >= self.per_minute:
            free_in_s = max(0.0, taken[0] + WINDOW_S - now) if taken else WINDOW_S
        else:
            taken.append(now)
            free_in_s = taken[0] + WINDOW_S - now
        return Budget(
            self.per_minute,
            self.per_minute - len(taken),
            math.ceil(time.time() + free_in_s),
            max(1, math.ceil(free_in_s)) if refused else None,
        )
