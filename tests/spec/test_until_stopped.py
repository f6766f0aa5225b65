"""A process works until it is told to stop, or until one of its works ends; what is left gets time to end."""

import asyncio
import os
import signal
from dataclasses import dataclass, field

import pytest

from services.until_stopped import SIGNALS, until_stopped


@dataclass
class Work:
    """Runs for ever; says what became of it."""

    begun: asyncio.Event = field(default_factory=asyncio.Event)
    said: list[str] = field(default_factory=list)
    stubborn: bool = False

    async def run(self) -> None:
        try:
            self.begun.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.said.append("cancelled")
            if self.stubborn:
                await asyncio.Event().wait()
            await asyncio.sleep(0)
            self.said.append("tidied")
            raise


async def failing(after: asyncio.Event) -> None:
    await after.wait()
    raise OSError("the disk is full")


@pytest.mark.parametrize("number", SIGNALS)
async def test_a_signal_ends_every_work_and_waits_for_it(number: signal.Signals) -> None:
    one, two = Work(), Work()
    living = asyncio.create_task(until_stopped(one.run(), two.run()))
    await one.begun.wait()
    os.kill(os.getpid(), number)
    await living
    assert one.said == two.said == ["cancelled", "tidied"]


async def test_a_work_that_fails_ends_the_others_and_its_error_is_raised() -> None:
    work = Work()
    with pytest.raises(OSError, match="the disk is full"):
        await until_stopped(work.run(), failing(work.begun))
    assert work.said == ["cancelled", "tidied"]


async def test_a_work_that_does_not_end_is_not_waited_for() -> None:
    work = Work(stubborn=True)
    with pytest.raises(OSError, match="the disk is full"):
        await until_stopped(work.run(), failing(work.begun), within_s=0.01)
    assert work.said == ["cancelled"]


async def test_whoever_cancels_the_whole_gets_its_works_ended() -> None:
    work = Work()
    living = asyncio.create_task(until_stopped(work.run()))
    await work.begun.wait()
    living.cancel()
    with pytest.raises(asyncio.CancelledError):
        await living
    assert work.said == ["cancelled", "tidied"]
