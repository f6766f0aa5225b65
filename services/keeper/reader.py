"""Confirmed entries of the chain's log become facts of the event log; blocks taken back take them back.

Keeps nothing between runs: at a start, and after every reorganisation, what the log believes is compared with
the chain, and every open escrow is read again from where its money came. A fact told twice is one fact.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any, Literal

import structlog
from nats.errors import Error as NatsError

from events import payment, stream
from events.chain import ChainRef
from events.envelope import Cause
from events.kernel import Rejected
from services.chain import logs
from services.chain.contract import NotAnswered
from services.chain.logs import Mark, TakenBack
from services.chain.rpc import CallReverted, ChainAway, Log, RpcRefused
from services.handle import handle
from services.keeper import entries, meter
from services.keeper.entries import Reading
from services.keeper.following import Following, Paid
from services.keeper.meter import Change, Meter
from services.keeper.progress import Progress
from services.log import EventLog, LogUnavailable

Found = Literal["stopped", "closed", "running"]
POLL_S = 0.25
LONGEST_PAUSE_S = 5.0
AWAY = (ChainAway, RpcRefused, CallReverted, NotAnswered, LogUnavailable, NatsError, OSError)
"""NotAnswered: a reorg took a contract away between two looks at it."""
REVERTS: dict[str, Callable[[ChainRef], Any]] = {"session": payment.RevertPayment, "stream": stream.Revert}

log = structlog.get_logger("keeper")


@dataclass
class ChainReader:
    """`progress`: the block up to which every fact of an open session stands in the folded log."""

    reading: Reading
    events: EventLog
    following: Following
    controller: str
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    nudged: asyncio.Event = field(default_factory=asyncio.Event)
    taken_back: asyncio.Event = field(default_factory=asyncio.Event)
    """Blocks were taken back, and with them maybe transactions that were mined."""
    _marks: tuple[Mark, ...] = ()
    _meters: dict[str, Meter] = field(default_factory=dict)
    """By session; missing: its escrow has not been read yet."""

    def __post_init__(self) -> None:
        self.progress = Progress(self.reading.rpc)

    async def read_forever(self) -> None:
        """An RPC or a log that is away is waited for; facts wait with it."""
        pause_s, said = 0.1, False
        while True:
            try:
                await self._step()
                if said:
                    log.info("chain_back", block=self.progress.upto)
                pause_s, said = 0.1, False
            except AWAY as away:
                if not said:
                    log.warning("reading_delayed", why=str(away) or repr(away))
                said = True
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                continue
            self.nudged.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):  # wait_for of 3.11 can swallow a cancellation
                    await self.nudged.wait()

    async def passed(self, block: int) -> None:
        """See `Progress.passed`; the reader looks at once."""
        self.nudged.set()
        await self.progress.passed(block)

    async def _step(self) -> None:
        if not self._marks:
            await self._begin()
        while True:
            newest, read = self._marks[-1], (self.reading.rpc, self.reading.network, self._marks)
            stands = await logs.is_canonical(self.reading.rpc, newest.number, newest.hash)
            step = await logs.read_on(*read, (), [entries.topics()]) if stands else TakenBack(newest)
            if isinstance(step, TakenBack):
                log.warning("blocks_taken_back", newest=newest.number)
                self._marks, self._meters = (), {}
                await self.progress.reached(-1)
                await self._begin()
                self.taken_back.set()
                continue
            for kind in REVERTS:
                revert = partial(self._revert, kind)
                await self.following.unguarded[kind].take_back(self.reading, newest, revert)
            self._forget()
            if not await self._catch_up():
                continue
            if step is None:
                break
            await self._take(step.logs)
            await self._arrivals(step.mark.number)
            await self._note(logs.after(self._marks, step))
        if self.progress.upto < self._marks[-1].number:
            await self._note(self._marks)
        if not self.ready.is_set():
            self.ready.set()
            log.info("following", block=self.progress.upto, escrows=len(self._meters))

    async def _note(self, marks: tuple[Mark, ...]) -> None:
        self._marks = marks
        await self.progress.reached(marks[-1].number)

    async def _begin(self) -> None:
        """Where the chain is now; what the log believes and the chain has not, is taken back."""
        rpc, network = self.reading.rpc, self.reading.network
        confirmed = await rpc.block_number() - network.confirmations + 1
        mark = await logs.mark_before(rpc, max(1, confirmed + 1))
        for kind in REVERTS:
            self.following.unguarded[kind].clear()
        for paid in list(self.following.paid.values()):
            at = paid.settlement
            if at is not None and not await self.reading.stands(at):
                await self._revert("session", paid.session_id, at)
        for session_id, state in list(self.following.view.streams.items()):
            for seen in state.seen:
                if not await self.reading.stands(seen.at):
                    await self._revert("stream", session_id, seen.at)
        self._marks = (mark,)
        await self._arrivals(mark.number)

    async def _revert(self, kind: str, key: str, at: ChainRef) -> None:
        await self._do(kind, key, REVERTS[kind](at), f"revert:{self.following.telling(at)}")

    async def _catch_up(self) -> bool:
        """Escrows that were never read, up to the newest mark; nothing follows an entry that closed one.

        False: the mark was taken back meanwhile.
        """
        upto = self._marks[-1].number
        for paid in list(self.following.paid.values()):
            known = self.following.view.streams.get(paid.session_id)
            if paid.session_id in self._meters or paid.first_block is None or (known and known.closed):
                continue
            address = paid.voucher.terms.escrow
            found = await self.reading.between(paid.first_block, upto, [address], [entries.topics()])
            if not await logs.is_canonical(self.reading.rpc, upto, self._marks[-1].hash):
                return False
            self._meters[paid.session_id] = Meter()
            try:
                await self._take(found)
            except BaseException:
                del self._meters[paid.session_id]
                raise
        return True

    def _forget(self) -> None:
        self.following.forget()
        for session_id in self._meters.keys() - self.following.paid.keys():
            del self._meters[session_id]

    async def _take(self, found: Sequence[Log]) -> None:
        """Facts of the escrows that are followed, by transaction. Meters move when all is told."""
        before = dict(self._meters)
        try:
            for (_, _, address), some in groupby(_sorted(found), key=_place):
                session_id = self.following.escrows.get(address)
                paid = self.following.paid.get(session_id or "")
                if paid is not None and paid.session_id in self._meters:
                    await self._tell(paid, list(some))
        except BaseException:
            self._meters = before
            raise

    async def _tell(self, paid: Paid, found: list[Log]) -> None:
        now = self._meters[paid.session_id]
        escrow = paid.voucher.terms.escrow
        said = await self.reading.of_escrow(escrow, now.since_unix_s, found)
        block = found[-1].block_number
        units = {
            gda_pool: await self.reading.units_of(gda_pool, block) for gda_pool in meter.pools_of(now, said)
        }
        after, changes = meter.read(now, said, units)
        if after.disagrees:
            log.error("spent_differs", session_id=paid.session_id, counted_wei=str(after.spent_wei))
        asked = await self.reading.rpc.transaction(found[0].transaction)
        ours = asked is not None and asked.sender.lower() == self.controller.lower()
        for change in changes:
            await self._observe(paid, change, ours)
        self._meters[paid.session_id] = after

    async def _observe(self, paid: Paid, change: Change, ours: bool) -> None:
        fact = self._fact(paid, change, ours)
        command_id = f"fact:{self.following.telling(change.at)}"
        try:
            new = await self._do("stream", paid.session_id, stream.Observe(fact), command_id)
        except stream.StreamUnknown:
            # The payer opened and closed it without us: nobody had asked anything of it yet.
            terms = paid.voucher.terms
            close = stream.Close(terms, "payer", time.time_ns() // 1_000_000)
            await self._do("stream", paid.session_id, close, f"unasked:{paid.session_id}")
            new = await self._do("stream", paid.session_id, stream.Observe(fact), f"{command_id}:asked")
        if new:
            name = str(fact.__struct_config__.tag)
            log.info("fact", session_id=paid.session_id, name=name, block=change.at.block_number)

    def _fact(self, paid: Paid, change: Change, ours: bool) -> stream.Fact:
        if change.lost:
            return stream.Liquidated(change.paid, str(change.penalty_wei), change.at)
        active, rate, stop = change.active, str(change.rate_wei_per_s), change.hard_stop_unix_s
        epoch = self._epoch(paid, change.gda_pool) if active else 0
        paid_out, instant = change.paid, str(change.instant_wei)
        refund, at = str(change.refund_wei), change.at
        if not ours:
            found: Found = "closed" if change.closed else "running" if active else "stopped"
            return stream.Reconciled(found, active, rate, epoch, stop, paid_out, instant, refund, at)
        if active:
            return stream.Started(active, rate, epoch, change.gda_pool, stop, paid_out, instant, at)
        return stream.Stopped(paid_out, instant, change.closed, refund, at)

    def _epoch(self, paid: Paid, gda_pool: str) -> int:
        """The log's epoch whose operators this gda_pool pays; what was wanted, where the log names none."""
        epoch = self.following.epoch_of(paid.voucher.terms.pool_id, gda_pool)
        state = self.following.view.streams.get(paid.session_id)
        return epoch or (state.wanted.epoch if state is not None else 0)

    async def _arrivals(self, upto: int) -> None:
        """Vouchers whose transfer a reorganisation took back, and which have come again."""
        for paid in list(self.following.paid.values()):
            if paid.settlement is not None or paid.first_block is None:
                continue
            terms = paid.voucher.terms
            first = max(0, paid.first_block - logs.KEPT_MARKS)
            found = await self.reading.arrival(terms.escrow, terms.payer, paid.voucher.nonce, first, upto)
            if found is not None:
                confirm = payment.ConfirmPayment(found)
                await self._do(
                    "session", paid.session_id, confirm, f"confirm:{self.following.telling(found)}"
                )

    async def _do(self, kind: str, key: str, command: Any, command_id: str) -> bool:
        """Until the log holds it and the view shows it; whether it is new to the log.

        Raises StreamUnknown, LogUnavailable.
        """
        cause = Cause(command_id, key, command_id, time.time_ns() // 1_000_000)
        try:
            handled = await handle(self.events, kind, key, command, cause)
        except stream.StreamUnknown:
            raise
        except Rejected as refused:
            name = type(command).__name__
            log.error("fact_refused", kind=kind, id=key, command=name, code=refused.code, why=str(refused))
            return False
        await self.following.wait_for(handled.sequence)
        return bool(handled.events) and not handled.replayed


def _place(entry: Log) -> tuple[int, str, str]:
    return entry.block_number, entry.transaction, entry.address.lower()


def _sorted(found: Sequence[Log]) -> list[Log]:
    """Escrow by escrow within a transaction, which one transaction may change several of."""
    first: dict[str, int] = {}
    for one in found:
        first[one.transaction] = min(one.index, first.get(one.transaction, one.index))
    return sorted(
        found, key=lambda one: (one.block_number, first[one.transaction], one.address.lower(), one.index)
    )
