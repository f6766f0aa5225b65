"""Random schedules on a real chain: whatever happens around the keeper, every session ends to the wei.

Each has requests that start and end, and between them a keeper that dies, an RPC that refuses, hangs or
answers with errors, blocks that are taken back, and a payer who stops or closes by himself.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable

import pytest

from events import session, stream
from events.kernel import Rejected
from tests.keeping import House, house
from tests.paid_chain import PaidSession
from tests.rpc_proxy import FAULTS as FAULTS_OF_AN_RPC

HOUSES, PER_HOUSE = 6, 20
FAULTS = ("crash", "refuse", "hang", "err", "reorg", "reorg", "payer_stop", "payer_close")
CLOSED = 2


class Schedule:
    """One paid session, from its voucher to its end."""

    within_s, poll_s = 60.0, 0.02
    """How long to wait for what has to come, and how often to look."""

    def __init__(self, here: House, number: int, draw: random.Random) -> None:
        self.here, self.number, self.draw = here, number, draw
        self.key, self.paid = "", PaidSession("", (), ())
        self.running: list[int] = []
        self.log: list[str] = []
        self._keeper = contextlib.AsyncExitStack()
        self._requests = 0

    async def run(self) -> None:
        await self._revive()
        try:
            self.key, self.paid = await self.here.pay(self.number)
            for _ in range(self.draw.randrange(3, 8)):
                await self._step()
                if self.draw.random() < 0.5:
                    await self._fault(self.draw.choice(FAULTS))
            await self._finish()
        finally:
            self._heal()
            await self._keeper.aclose()

    async def _step(self) -> None:
        name = self.draw.choice(("start", "start", "end", "wait", "settle"))
        self.log.append(name)
        with contextlib.suppress(Rejected):
            if name == "start":
                self._requests += 1
                await self.here.start(self.key, self._requests)
                self.running.append(self._requests)
            elif name == "end" and self.running:
                await self.here.end(self.key, self.running.pop(self.draw.randrange(len(self.running))))
        if name == "wait":
            await self.here.chain.wait(self.draw.randrange(1, 30))
        if name == "settle" and self._requests:
            await self._until_satisfied()

    async def _fault(self, name: str) -> None:
        self.log.append(name)
        here, proxy = self.here, self.here.proxy
        match name:
            case "crash":
                await self._asked(self.draw.randrange(12), passes=True)
                await self._keeper.aclose()
                await self._revive()
            case "refuse":
                await self._asked(self.draw.randrange(1, 5), passes=False)
            case "hang":
                proxy.answers_pass.clear()
                await self._asked(self.draw.randrange(1, 3), passes=True)
            case "err":
                here.errors.passes_on = self.draw.random() < 0.5
                here.errors.fault = lambda _: self.draw.choice(list(FAULTS_OF_AN_RPC.values()))
                await self._asked(self.draw.randrange(1, 5), passes=True)
            case "reorg":
                await here.chain.rpc.ask("anvil_rollback", self.draw.randrange(1, 4))
                await here.chain.rpc.ask("evm_mine")
            case "payer_stop":
                await self._by_payer("stop()")
            case "payer_close":
                await self._by_payer("close()")

    async def _asked(self, times: int, *, passes: bool) -> None:
        """Until the keeper has asked the chain so often, with or without success; then all is well again."""
        asked = 0

        def look(_: bytes) -> bool:
            nonlocal asked
            asked += 1
            return passes

        self.here.proxy.on_request = look
        async with asyncio.timeout(30):
            while asked < times:
                await asyncio.sleep(0.005)
        self._heal()

    async def _by_payer(self, signature: str) -> None:
        """He may come too early or too late for it."""
        with contextlib.suppress(Exception):
            await self.here.as_payer(self.paid.escrow, signature)

    def _heal(self) -> None:
        self.here.proxy.on_request = lambda _: True
        self.here.proxy.answers_pass.set()
        self.here.errors.fault = lambda _: None

    async def _revive(self) -> None:
        self._keeper = contextlib.AsyncExitStack()
        await self._keeper.enter_async_context(self.here.keeping())

    async def _until_satisfied(self) -> None:
        """The stream is what the log wants, unless a reorganisation took the voucher's money away."""

        async def state() -> bool:
            await self._pay_again()
            found = await self.here.state("stream", self.key)
            return not isinstance(found, stream.Stream) or found.satisfied

        await holds(state, self)

    async def _pay_again(self) -> None:
        """As the facilitator does when its transaction was taken back; or the escrow took it itself."""
        found = await self.here.state("session", self.key)
        if isinstance(found, session.OpenSession | session.Closed) and found.settlement is None:
            with contextlib.suppress(Exception):
                await self.here.chain.settle(self.paid)

    async def _finish(self) -> None:
        for request in self.running:
            with contextlib.suppress(Rejected):
                await self.here.end(self.key, request)
        with contextlib.suppress(Rejected):
            await self.here.close(self.key)

        await self.ended()

    async def ended(self) -> None:
        """The log has settled it, every wei is accounted for, and the escrow is closed."""

        async def so() -> bool:
            await self._pay_again()
            money = await self.here.state("stream", self.key)
            found = await self.here.state("session", self.key)
            if not isinstance(money, stream.Stream) or not isinstance(found, session.Closed):
                return False
            if not money.balanced or found.settlement is None:
                return False
            rpc, escrow = self.here.chain.rpc, self.paid.escrow
            there = bool(await rpc.code(escrow))
            return there and await self.here.chain.number(escrow, "state()") == CLOSED

        await holds(so, self)


async def holds(condition: Callable[[], Awaitable[bool]], schedule: Schedule) -> None:
    deadline = asyncio.get_running_loop().time() + schedule.within_s
    while not await condition():
        if asyncio.get_running_loop().time() > deadline:
            money = await schedule.here.state("stream", schedule.key)
            paid = await schedule.here.state("session", schedule.key)
            raise TimeoutError(f"{schedule.log}\n{money}\n{paid}")
        await asyncio.sleep(schedule.poll_s)


async def check(seed: int, count: int) -> None:
    """One after another; a reorganisation may also take back the end of the one before."""
    async with house() as here:
        ran = [Schedule(here, 600 + number, random.Random(f"{seed} {number}")) for number in range(count)]
        for schedule in ran:
            await schedule.run()
        async with here.keeping():
            for schedule in ran:
                await schedule.ended()
        report = await here.audit()
        assert report.findings == ()
        assert (report.wei_drift, report.sessions, report.settled) == ("0", count, count)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(HOUSES))
async def test_random_schedules_end_every_session_to_the_wei(seed: int) -> None:
    await check(seed, PER_HOUSE)
