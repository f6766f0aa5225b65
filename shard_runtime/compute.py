"""The one thread on which a worker computes, so that the event loop never waits for a forward pass.

Knows nothing of what it runs. Work is done in the order it was given: with at most one step of a request
under way at a time, that is round-robin over the requests that are ready.
"""

import asyncio
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import TypeVar

import torch

T = TypeVar("T")
Done = Callable[[T | Exception], None]


class ComputeThread:
    """`submit` from the event loop; the result, or the exception, comes back on the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name="compute", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[], T], done: Done[T] | None = None) -> None:
        def run() -> None:
            outcome: T | Exception
            try:
                outcome = work()
            except Exception as failure:
                outcome = failure
            if done is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(done, outcome)

        self._work.put(run)

    async def call(self, work: Callable[[], T]) -> T:
        """As `submit`, to be awaited. Raises what `work` raised."""
        answer: asyncio.Future[T] = self._loop.create_future()

        def done(outcome: T | Exception) -> None:
            if answer.cancelled():
                return
            if isinstance(outcome, Exception):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)

        self.submit(work, done)
        return await answer

    def close(self) -> None:
        """Finish what was submitted, then stop."""
        self._work.put(None)
        self._thread.join(timeout=10)

    def _run(self) -> None:
        torch.set_num_threads(1)
        while (work := self._work.get()) is not None:
            work()
