"""How far a slice is loaded, as lines of the worker's log; knows nothing of who reads them."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

EVERY_S = 0.5
"""A line at most so often, but for the first and the last."""


class Loaded(NamedTuple):
    """After one more tensor was read and, when there is a manifest, found to be the agreed one."""

    tensor: str
    tensors_done: int
    tensors: int
    bytes_done: int
    bytes: int


class LoadingLog:
    """Called with each `Loaded`, from any thread; `say` is called with the fields of a line now and then."""

    def __init__(self, say: Callable[..., Any], clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._clock = say, clock
        self._next_s = float("-inf")

    def __call__(self, now: Loaded) -> None:
        if now.tensors_done < now.tensors and self._clock() < self._next_s:
            return
        self._next_s = self._clock() + EVERY_S
        self._say("slice_progress", **now._asdict())
