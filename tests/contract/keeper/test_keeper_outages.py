"""Long outages of the chain's RPC on a real chain: fifty sessions at a time live through each of them.

It refuses, hangs or answers with errors for up to a minute. Meanwhile requests start and end and payers act
by themselves; before, between and during outages the keeper dies and blocks are taken back.
"""

import asyncio
import contextlib
import math
import random

import pytest

from events.kernel import Rejected
from services.chain.rpc import RpcRefused
from tests.contract.keeper.test_keeper_schedules import Schedule
from tests.keeping import House, house
from tests.rpc_proxy import FAULTS

PER_HOUSE = 50
LONGEST_S, SHORTEST_S = 60.0, 1.0
LONG = ("refuse", "hang", "err", "err")
"""By house: what lasts a minute there. The other two last as long as is drawn."""


class Weather:
    """What happens to everybody in a house; `moved` whenever something changes."""

    def __init__(self, here: House, long: str, draw: random.Random) -> None:
        self.here, self.draw = here, draw
        self.over = False
        self.log: list[str] = []
        self.lived_s: list[float] = []
        self._moved = asyncio.Event()
        self._keeper = contextlib.AsyncExitStack()
        self._outages = [(long, LONGEST_S)]
        for kind in {"refuse", "hang", "err"} - {long}:
            self._outages.append(
                (kind, math.exp(draw.uniform(math.log(SHORTEST_S), math.log(LONGEST_S) / 1.4)))
            )
        draw.shuffle(self._outages)

    async def run(self) -> None:
        await self._revive()
        try:
            await self._calm()
            for kind, length_s in self._outages:
                await self._outage(kind, length_s)
                await self._calm()
            self.over = True
            self._move()
        except BaseException:
            await self._keeper.aclose()
            raise

    async def end(self) -> None:
        await self._keeper.aclose()

    async def moved(self) -> None:
        """Until something changes; when it is over, nothing does any more."""
        if not self.over:
            await self._moved.wait()

    def _move(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()

    async def _outage(self, kind: str, length_s: float) -> None:
        here = self.here
        self.log.append(f"{kind} {length_s:.1f}")
        began = asyncio.get_running_loop().time()
        match kind:
            case "refuse":
                here.proxy.on_request = lambda _: False
            case "hang":
                here.proxy.answers_pass.clear()
            case _:
                here.errors.fault = lambda _: self.draw.choice(list(FAULTS.values()))
        for part in (0.3, 0.7):
            here.errors.passes_on = self.draw.random() < 0.5
            self._move()
            await asyncio.sleep(part * length_s)
            if part < 0.5:
                await self._strike()
        here.proxy.on_request = lambda _: True
        here.proxy.answers_pass.set()
        here.errors.fault = lambda _: None
        self.lived_s.append(asyncio.get_running_loop().time() - began)

    async def _calm(self) -> None:
        """The keeper gets something done, more or less; what strikes then is short."""
        for _ in range(self.draw.randrange(1, 4)):
            with contextlib.suppress(RpcRefused):  # somebody's block came in between, and later
                await self.here.chain.wait(self.draw.randrange(1, 30))
            self._move()
            before = self.here.errors.asked
            wanted = self.draw.randrange(200)
            async with asyncio.timeout(60):
                while self.here.errors.asked < before + wanted:
                    await asyncio.sleep(0.02)
            await self._strike()

    async def _strike(self) -> None:
        kind = self.draw.choice(("crash", "reorg", "nothing"))
        self.log.append(kind)
        if kind == "crash":
            await self._keeper.aclose()
            await self._revive()
        if kind == "reorg":
            await self.here.chain.rpc.ask("anvil_rollback", self.draw.randrange(1, 4))
            await self.here.chain.rpc.ask("evm_mine")

    async def _revive(self) -> None:
        self._keeper = contextlib.AsyncExitStack()
        await self._keeper.enter_async_context(self.here.keeping())


class Visit(Schedule):
    """One session through a whole weather; at its end two hundred want to be closed at once."""

    within_s, poll_s = 420.0, 0.2

    async def pay(self) -> None:
        self.key, self.paid = await self.here.pay(self.number)

    async def live(self, weather: Weather) -> None:
        while not weather.over:
            name = self.draw.choice(("start", "start", "end", "end", "nothing", "nothing", "payer"))
            self.log.append(name)
            with contextlib.suppress(Rejected):
                if name == "start":
                    self._requests += 1
                    await self.here.start(self.key, self._requests)
                    self.running.append(self._requests)
                elif name == "end" and self.running:
                    request = self.running.pop(self.draw.randrange(len(self.running)))
                    await self.here.end(self.key, request)
                elif name == "payer" and self.draw.random() < 0.3:
                    await self._by_payer(self.draw.choice(("stop()", "close()")))
            await weather.moved()
        for request in self.running:
            with contextlib.suppress(Rejected):
                await self.here.end(self.key, request)
        with contextlib.suppress(Rejected):
            await self.here.close(self.key)


async def check(here: House, number: int, long: str) -> list[float]:
    """How long each outage lasted that all sessions of a house lived through."""
    weather = Weather(here, long, random.Random(f"outage {number}"))
    visits = [Visit(here, 600 + n, random.Random(f"{number} {n}")) for n in range(PER_HOUSE)]
    for visit in visits:
        await visit.pay()
    async with asyncio.TaskGroup() as works:
        works.create_task(weather.run())
        for visit in visits:
            works.create_task(visit.live(weather))
    try:
        for visit in visits:
            await visit.ended()
    finally:
        await weather.end()
    report = await here.audit()
    assert report.findings == (), weather.log
    assert (report.wei_drift, report.sessions, report.settled) == ("0", PER_HOUSE, PER_HOUSE)
    return weather.lived_s


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_two_hundred_sessions_live_through_outages_of_up_to_a_minute() -> None:
    async with contextlib.AsyncExitStack() as houses:
        here = [await houses.enter_async_context(house()) for _ in LONG]
        lived = await asyncio.gather(
            *(check(one, number, long) for number, (one, long) in enumerate(zip(here, LONG, strict=True)))
        )
    assert len(lived) * PER_HOUSE == 200
    for lengths in lived:
        assert len(lengths) == 3
        assert max(lengths) >= LONGEST_S
        assert min(lengths) >= SHORTEST_S
