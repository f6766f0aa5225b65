"""Tells escrows what the log wants of them, by workflow runs that a restart neither repeats nor forgets.

One task per session, one run at a time: look at the log and at the escrow, ask for the run that is missing,
wait until the chain's entries of that block stand in the log, look again. What happened is never concluded
from a run's end. Every attempt is a run of its own: session, `change:step`, attempt.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog
from nats.errors import Error as NatsError

from events import money_policies, stream
from events.envelope import Cause
from events.kernel import Rejected
from events.workflow import Requested, RunDiffers, WorkflowName
from services.chain import revert
from services.chain.artifacts import artifact
from services.chain.contract import Contract, NotAnswered
from services.chain.rpc import CallReverted, ChainAway, RpcRefused
from services.chain.sender import Sender, SendRefused
from services.chain.transactions import GasAboveCap, ReceiptOverdue
from services.database import ENGINE_AWAY
from services.handle import handle
from services.keeper.entries import escrow_at
from services.keeper.following import Following, Paid
from services.keeper.reader import ChainReader
from services.keeper.refusals import START_REFUSED
from services.keeper.runs import Ended, Runs
from services.keeper.vouchers import Voucher, written
from services.log import EventLog, LogUnavailable

FRESH, OPEN, CLOSED = range(3)
AT_ONCE = 16
START_ATTEMPTS = 4
"""So often a start may be refused, or mined in vain, for a reason that could pass."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 15.0
TEND_EVERY_S = 10.0
LOOK_S = 0.02
AWAY = (
    ChainAway, RpcRefused, NotAnswered, SendRefused, GasAboveCap, ReceiptOverdue, LogUnavailable, NatsError,
    *ENGINE_AWAY,
)  # fmt: skip
log = structlog.get_logger("keeper")


class VoucherMissing(Exception):
    """voucher_missing: the log has a paid session whose voucher the database does not hold."""

    code = "voucher_missing"


@dataclass
class Executor:
    events: EventLog
    following: Following
    reader: ChainReader
    sender: Sender
    runs: Runs
    factory: Contract
    usdc: Contract
    voucher_of: Callable[[str], Awaitable[Voucher | None]]
    _driving: dict[str, "asyncio.Task[None]"] = field(default_factory=dict)
    _free: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))

    async def run(self) -> None:
        """Forever. Raises what a driver raised that it could not deal with."""
        await self.following.caught_up.wait()
        await self.reader.ready.wait()
        try:
            while True:
                for session_id, _ in money_policies.due(self.following.view):
                    if session_id not in self._driving:
                        self._driving[session_id] = asyncio.create_task(self._drive(session_id))
                await self._something()
                for session_id in [key for key, task in self._driving.items() if task.done()]:
                    self._driving.pop(session_id).result()
        finally:
            for task in self._driving.values():
                task.cancel()
            if self._driving:
                await asyncio.wait(self._driving.values())

    async def _something(self) -> None:
        """Until the log moved or a driver ended."""
        moved = asyncio.create_task(self._moved(self.following.view.sequence))
        try:
            waiting = {moved, *self._driving.values()}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED, timeout=1.0)
        finally:
            moved.cancel()
            await asyncio.wait({moved})

    async def _moved(self, sequence: int) -> None:
        await self.following.wait_for(sequence + 1)

    async def tend(self) -> None:
        """Transactions that a dead process or a reorganisation left behind are sent again: later ones need
        their nonces."""
        while True:
            try:
                await self.sender.tend()
            except AWAY as away:
                log.warning("tending_delayed", why=str(away) or repr(away))
            except CallReverted as refused:
                log.warning("tending_delayed", why=revert.named(refused.data))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TEND_EVERY_S):
                    await self.reader.taken_back.wait()
            self.reader.taken_back.clear()

    async def _drive(self, session_id: str) -> None:
        """Until the chain shows what the log wants."""
        pause_s, attempts, last = FIRST_PAUSE_S, 0, ""
        while True:
            state = self._due(session_id)
            if state is None:
                return
            step = f"{session_id}:{state.wanted.change}"
            if step != last:
                pause_s, attempts, last = FIRST_PAUSE_S, 0, step
            try:
                async with self._free:
                    ended = await self._attempt(session_id, state)
                if ended is not None:
                    attempts += 1
                    if ended.sent and attempts < START_ATTEMPTS:
                        continue
                    if not ended.confirmed:
                        log.warning("refused", session_id=session_id, code=ended.code, why=ended.detail)
                    final = attempts >= START_ATTEMPTS or not ended.retryable
                    code = ended.code or START_REFUSED
                    if _starts(state) and final and await self._fail_patiently(session_id, state, code):
                        continue
            except CallReverted as why:
                log.warning("unreadable", session_id=session_id, why=revert.named(why.data))
            except RunDiffers as differs:
                log.error("run_differs", session_id=session_id, why=str(differs))
            except VoucherMissing as missing:
                log.error("voucher_missing", session_id=session_id, why=str(missing))
            except AWAY as away:
                log.warning("delayed", session_id=session_id, why=str(away) or repr(away))
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _due(self, session_id: str) -> stream.Stream | None:
        state = self.following.view.streams.get(session_id)
        found = dict(money_policies.due(self.following.view)) if state is not None else {}
        return found.get(session_id)

    async def _attempt(self, session_id: str, state: stream.Stream) -> Ended | None:
        """Run what is missing and wait until the log knows what came of it; None when nothing was to be done.

        Raises VoucherMissing, CallReverted, and what AWAY names.
        """
        paid = self.following.paid.get(session_id)
        if paid is None or paid.settlement is None:
            return None
        escrow, active = escrow_at(state.terms.escrow), _active(state)
        status = await self._status(escrow)
        if status == CLOSED:
            await self.reader.passed(await self.sender.rpc.block_number())
            return None
        if status == OPEN and active and await self._pays_already(escrow, paid, active):
            return None
        requested = await self._requested(paid, state, status == FRESH, active)
        log.info("running", session_id=session_id, step=requested.step, attempt=requested.attempt)
        ended = await self._done(requested, state, active)
        if ended is not None and ended.sent:
            await self.reader.passed(await self.sender.rpc.block_number())
        return ended

    async def _done(self, requested: Requested, before: stream.Stream, active: int) -> Ended | None:
        """The run's end; None when the log shows its effect earlier, whatever else the run still does."""
        running = asyncio.ensure_future(self.runs.run(requested))
        seen = asyncio.create_task(self._seen(requested.subject_id, before, active))
        looking = asyncio.create_task(self._look_often())
        try:
            await asyncio.wait({running, seen}, return_when=asyncio.FIRST_COMPLETED)
            return None if seen.done() and not running.done() else await running
        finally:
            for task in (running, seen, looking):
                task.cancel()

    async def _look_often(self) -> None:
        """The reader looks at the chain often instead of now and then, while a payer waits for it."""
        pause_s = LOOK_S
        while True:
            self.reader.nudged.set()
            await asyncio.sleep(pause_s)
            pause_s = min(1.1 * pause_s, 1.0)

    async def _seen(self, session_id: str, before: stream.Stream, active: int) -> None:
        """Until the chain shows a newer fact of this escrow that is what was asked."""
        while True:
            sequence = self.following.view.sequence
            now = self.following.view.streams.get(session_id)
            if now is None or len(now.seen) > len(before.seen):
                done = now is None or now.closed or (now.active == active and not before.wanted.final)
                if done:
                    return
            await self._moved(sequence)

    async def _requested(self, paid: Paid, state: stream.Stream, fresh: bool, active: int) -> Requested:
        """The run that brings the escrow to what is wanted."""
        name: WorkflowName = "stream-start" if active else "stream-stop"
        input = {
            "network": str(state.terms.chain_id),
            "session_id": paid.session_id,
            "escrow": state.terms.escrow,
            "active": str(active),
        }
        if fresh:
            found = await self._voucher(paid)
            input |= {"mode": "open" if active else "open-and-close", "factory": self.factory.address}
            input |= {"terms": written(found.terms), "voucher": written(found.voucher)}
        else:
            input["mode"] = "change" if active else "close" if state.wanted.final else "stop"
        step = f"{state.wanted.change}:{input['mode']}-{active}"
        attempt = self.following.attempt(paid.session_id, step)
        return Requested(name, "stream", paid.session_id, step, attempt, input)

    async def _pays_already(self, escrow: Contract, paid: Paid, active: int) -> bool:
        """So many requests to the newest gda_pool there is: the epoch that the log wants is not open yet."""
        rpc = self.sender.rpc
        if int(await escrow.read(rpc, "active")) != active:
            return False
        coalition = Contract(artifact("ICoalition"), await escrow.read(rpc, "coalition"))
        paying, newest = await escrow.read(rpc, "gdaPool"), await coalition.read(rpc, "gdaPool")
        return str(paying).lower() == str(newest).lower()

    async def _status(self, escrow: Contract) -> int:
        if not await self.sender.rpc.code(escrow.address):
            return FRESH
        return int(await escrow.read(self.sender.rpc, "state"))

    async def _voucher(self, paid: Paid) -> Voucher:
        """Raises VoucherMissing; also when its money is not where the log says (ADR 0013)."""
        found = await self.voucher_of(paid.session_id)
        if found is None:
            raise VoucherMissing(f"no voucher of session {paid.session_id}")
        used = await self.usdc.read(self.sender.rpc, "authorizationState", found.voucher[0], found.voucher[4])
        at = paid.settlement
        if used and int(found.terms[0], 16) == 0 and at is not None:
            terms = paid.voucher.terms
            place = (at.block_number, at.block_number)
            nonce = "0x" + bytes(found.voucher[4]).hex()
            if await self.reader.reading.arrival(terms.escrow, terms.payer, nonce, *place) is None:
                raise VoucherMissing(f"the nonce of session {paid.session_id} is used and paid nothing")
        return found

    async def _fail_patiently(self, session_id: str, state: stream.Stream, code: str) -> bool:
        """Whether the log holds it."""
        try:
            await self._fail(session_id, state, code)
        except AWAY as away:
            log.warning("delayed", session_id=session_id, why=str(away) or repr(away))
            return False
        return True

    async def _fail(self, session_id: str, state: stream.Stream, code: str) -> None:
        """The chain refuses this start for good."""
        change = state.wanted.change
        command_id = f"start-failed:{session_id}:{change}"
        cause = Cause(command_id, session_id, command_id, time.time_ns() // 1_000_000)
        try:
            command = stream.FailStart(change, code)
            handled = await handle(self.events, "stream", session_id, command, cause)
        except Rejected as refused:
            log.error("fact_refused", id=session_id, code=refused.code)
            return
        log.warning("start_failed", session_id=session_id, change=change, code=code)
        await self.following.wait_for(handled.sequence)


def _active(state: stream.Stream) -> int:
    """Requests that the escrow has to pay for now."""
    return 0 if state.wanted.final or state.wanted.failed else state.wanted.active


def _starts(state: stream.Stream) -> bool:
    return _active(state) > 0
