"""The life of a process: its works run side by side until a signal, or until one of them ends by itself.

Knows no work. Who opened connections for the works closes them afterwards.
"""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any

STOP_WITHIN_S = 3.0
"""How long each step of a stop may take while a server is away."""
SIGNALS = (signal.SIGTERM, signal.SIGINT)


async def until_stopped(*works: Coroutine[Any, Any, None], within_s: float = STOP_WITHIN_S) -> None:
    """Until SIGTERM, SIGINT or the end of any work; then the others are cancelled and get `within_s` to end.

    Raises what a work failed with before it was cancelled. Only in the main thread.
    """
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, stop.set)
    tasks = [asyncio.create_task(work) for work in works]
    stopping = asyncio.create_task(stop.wait())
    try:
        ended, _ = await asyncio.wait({*tasks, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        running = [task for task in (*tasks, stopping) if not task.done()]
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=within_s)
        for number in SIGNALS:
            loop.remove_signal_handler(number)
    for task in ended:
        task.result()
