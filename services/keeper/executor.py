"""Tells escrows what the log wants of them, by transactions that a restart neither repeats nor forgets.

One task per session, one transaction at a time: look at the log and at the escrow, send what is missing, wait
until the chain's entries of that block stand in the log, look again. What happened is never concluded from
a receipt. Every attempt has its own intent: `session:change:step:attempt`.
"""

import asyncio
import contextlib
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog
from nats.errors import Error as NatsError
from sqlalchemy.exc import InterfaceError, OperationalError

from events import money_policies, stream
from events.envelope import Cause
from events.kernel import Rejected
from services.chain import revert
from services.chain.artifacts import artifact
from services.chain.contract import Contract
from services.chain.rpc import CallReverted, ChainAway, RpcRefused
from services.chain.sender import Sender, SendRefused
from services.chain.transactions import GasAboveCap, ReceiptOverdue
from services.handle import handle
from services.keeper.entries import escrow_at
from services.keeper.following import Following, Paid
from services.keeper.reader import ChainReader
from services.keeper.vouchers import Voucher
from services.log import EventLog, LogUnavailable

FRESH, OPEN, CLOSED = range(3)
AT_ONCE = 16
START_ATTEMPTS = 4
"""So often a start may be refused, or mined in vain, for a reason that could pass."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 15.0
TEND_EVERY_S = 10.0
AWAY = (
    ChainAway, RpcRefused, SendRefused, GasAboveCap, ReceiptOverdue, LogUnavailable, NatsError, OSError,
    OperationalError, InterfaceError,
)  # fmt: skip
FINAL = frozenset(
    {
        "NothingLeft", "OpenedTooLate", "TermsInvalid", "VoucherInvalid", "VoucherNotFunded",
        "SignatureInvalid", "TransferRefused", "TooManyActive", "RateNotExact", "NotOpener", "NotController",
    }
)  # fmt: skip
"""Refusals of a contract that another attempt would meet again."""

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
                await asyncio.wait_for(self.reader.taken_back.wait(), TEND_EVERY_S)
            self.reader.taken_back.clear()

    async def _drive(self, session_id: str) -> None:
        """Until the chain shows what the log wants."""
        pause_s, attempts, refused, last = FIRST_PAUSE_S, 0, 0, ""
        while True:
            state = self._due(session_id)
            if state is None:
                return
            step = f"{session_id}:{state.wanted.change}"
            if step != last:
                pause_s, attempts, refused, last = FIRST_PAUSE_S, 0, 0, step
            try:
                async with self._free:
                    sent = await self._attempt(session_id, state, attempts + 1)
                attempts += sent
                if sent and attempts < START_ATTEMPTS:
                    continue
                if sent and _starts(state):
                    await self._fail(session_id, state, "start_refused")
                    continue
            except CallReverted as why:
                named = revert.named(why.data)
                refused += 1
                log.warning("refused", session_id=session_id, change=state.wanted.change, why=named)
                final = refused >= START_ATTEMPTS or _name(named) in FINAL
                if _starts(state) and final and await self._fail_patiently(session_id, state, _code(named)):
                    continue
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

    async def _attempt(self, session_id: str, state: stream.Stream, number: int) -> int:
        """Send what is missing and wait until the log knows what came of it; 1 when something was sent.

        Raises CallReverted when the chain would refuse it: then nothing was sent.
        """
        paid = self.following.paid.get(session_id)
        if paid is None or paid.settlement is None:
            return 0
        escrow, active = escrow_at(state.terms.escrow), _active(state)
        status = await self._status(escrow)
        if status == CLOSED:
            await self.reader.passed(await self.sender.rpc.block_number())
            return 0
        if status == FRESH:
            step, to, data = f"open-{active}", self.factory.address, await self._opening(paid, active)
        elif active and await self._pays_already(escrow, paid, active):
            return 0
        elif state.wanted.final:
            step, to, data = "close", escrow.address, escrow.calldata("close")
        else:
            step, to, data = f"active-{active}", escrow.address, escrow.calldata("setActive", active)
        intent = f"{session_id}:{state.wanted.change}:{step}:{number}"
        log.info("sending", session_id=session_id, intent=intent)
        receipt = await self.sender.send(intent, to, data)
        log.info("sent", session_id=session_id, intent=intent, succeeded=receipt.succeeded)
        await self.reader.passed(receipt.block_number)
        return 1

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

    async def _opening(self, paid: Paid, active: int) -> bytes:
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
        return self.factory.calldata("open", found.terms, found.voucher, active)

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


def _name(named: str) -> str:
    return named.partition("(")[0]


def _code(named: str) -> str:
    """An error's name as a code: NothingLeft -> nothing_left."""
    words = re.sub(r"(?<!^)(?=[A-Z])", "_", _name(named)).lower()
    return words if re.fullmatch(r"[a-z][a-z_]*", words) else "start_refused"
