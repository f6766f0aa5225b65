"""What the keeper knows of the log: the policies' view, and where each paid session's escrow stands.

Folded from the log alone. Knows no chain.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import get_args

from events import claim, payment, pool, stream, workflow
from events.chain import ChainRef
from events.envelope import Recorded, decode_commit
from events.view import View
from services.keeper.unguarded import Unguarded
from services.log import EventLog

CHAIN_FACTS = (payment.PaymentSettled, *get_args(stream.Fact), *get_args(claim.Fact), pool.CoalitionEnded)
KINDS = ("session", "stream", "slash", "pool")
"""Of the aggregates that have them."""


@dataclass
class Paid:
    """A paid session's voucher; `settlement`: where its money arrived, None while it did not (any more)."""

    session_id: str
    voucher: payment.PaymentVerified
    settlement: ChainRef | None = None
    first_block: int | None = None
    """No entry of its escrow is older. None: its money never arrived."""


@dataclass
class Following:
    """Folded by one reader; every other task only looks at it, and may wait for `moved`."""

    view: View = field(default_factory=View)
    paid: dict[str, Paid] = field(default_factory=dict)
    """By session, as long as the view remembers it."""
    escrows: dict[str, str] = field(default_factory=dict)
    """Every escrow that the log ever named (lower case) -> its session."""
    coalitions: dict[str, int] = field(default_factory=dict)
    """Every coalition that the log ever named (lower case) -> the block in which it was first heard of."""
    told: Counter[str] = field(default_factory=Counter)
    """How often each chain fact was taken back: it may come again, and is told again then."""
    asked_unix_ms: dict[str, int] = field(default_factory=dict)
    """Open runs -> when they were asked for."""
    attempts: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)
    """(subject, step) -> its last attempt and that one's run."""
    unguarded: dict[str, Unguarded] = field(default_factory=lambda: {kind: Unguarded(kind) for kind in KINDS})
    """By kind of aggregate: facts that came into the log and may be on no chain any more."""
    moved: asyncio.Condition = field(default_factory=asyncio.Condition)
    caught_up: asyncio.Event = field(default_factory=asyncio.Event)

    async def follow(self, events: EventLog) -> None:
        """Fold the log forever."""
        head = await events.last_sequence()
        if head == 0:
            self.caught_up.set()
        async for message in events.read(0):
            for recorded in decode_commit(
                message.subject, message.sequence, message.headers, message.payload
            ):
                self.apply(recorded)
            async with self.moved:
                self.moved.notify_all()
            if message.sequence >= head:
                self.caught_up.set()

    def apply(self, recorded: Recorded) -> None:
        self.view.apply(recorded)
        key, event = recorded.aggregate_id, recorded.event
        if isinstance(event, CHAIN_FACTS):
            self.unguarded[recorded.kind].add(key, event.at)
        match event:
            case payment.PaymentVerified():
                self.paid[key] = Paid(key, event)
                self.escrows[event.terms.escrow.lower()] = key
            case payment.PaymentSettled(_, at) if key in self.paid:
                found = self.paid[key]
                found.settlement = at
                known = found.first_block
                found.first_block = at.block_number if known is None else min(known, at.block_number)
            case payment.PaymentReverted(_, _, at):
                if key in self.paid:
                    self.paid[key].settlement = None
                if at is not None:
                    self.told[at.key] += 1
                    self.unguarded["session"].forget(at)
            case pool.CoalitionOpened(coalition, _, _, _, _, at):
                self.coalitions.setdefault(coalition.lower(), at.block_number)
            case stream.Reverted() | claim.Reverted() | pool.CoalitionEndReverted():
                self.told[event.at.key] += 1
                self.unguarded[recorded.kind].forget(event.at)
            case workflow.Requested(_, _, subject_id, step, attempt):
                self.asked_unix_ms[key] = recorded.time_unix_ms
                self.attempts[subject_id, step] = (attempt, key)
            case workflow.Confirmed() | workflow.Failed():
                self.asked_unix_ms.pop(key, None)
            case _:
                pass

    def attempt(self, subject_id: str, step: str) -> int:
        """The number of the attempt to make now: the one that is open, or the next."""
        number, run_id = self.attempts.get((subject_id, step), (0, ""))
        return number if run_id in self.view.runs else number + 1

    def epoch_of(self, pool_id: str, gda_pool: str) -> int | None:
        """The log's epoch whose operators this gda_pool pays."""
        state = self.view.pools.get(pool_id)
        return state.openings.epoch_of(gda_pool) if isinstance(state, pool.Forming) else None

    def telling(self, at: ChainRef) -> str:
        """Names this telling of a fact: one that was taken back may be told again."""
        return f"{at.key}:{self.told[at.key]}"

    def forget(self) -> None:
        """Sessions that the view has forgotten."""
        gone = {key for key in self.paid if not self._remembered(key)}
        for key in gone:
            del self.paid[key]
        for subject_id, step in [found for found in self.attempts if found[0] in gone]:
            del self.attempts[subject_id, step]

    def _remembered(self, key: str) -> bool:
        view = self.view
        return key in view.sessions or key in view.paying or key in view.streams

    async def wait_for(self, sequence: int) -> None:
        """Until the log is folded up to there."""
        async with self.moved:
            await self.moved.wait_for(lambda: self.view.sequence >= sequence)
