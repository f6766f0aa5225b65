"""A money stream: what was asked of one session's escrow, and what the chain says happened, to the wei.

Its id is its session's. Facts are folded in the chain's order, so a late or repeated receipt changes nothing.
Knows nothing of requests, of keys or of how a transaction is sent.
"""

from dataclasses import dataclass, replace
from typing import Literal, assert_never

import msgspec

from events.chain import ChainRef, EscrowTerms, Share, total_wei
from events.kernel import Address, Decider, Event, Rejected, Wei

StopReason = Literal[
    "idle", "payer", "single_request", "budget", "expired", "payment_reverted", "start_failed"
]


class StartRequested(Event, frozen=True, tag="stream.start_requested.v1"):
    """Pay for `active` requests at once. `change` counts what was asked of this escrow, from 1."""

    change: int
    terms: EscrowTerms
    epoch: int
    active: int
    at_unix_ms: int


class Started(Event, frozen=True, tag="stream.started.v1"):
    """The escrow pays `rate_wei_per_s` (as read back) from the block's second on.

    `paid`: what operators received since the fact before this one, `instant_wei` of it at once (a short
    request's minimum). At `hard_stop_unix_s` anyone may close the escrow.
    """

    active: int
    rate_wei_per_s: Wei
    epoch: int
    gda_pool: Address
    hard_stop_unix_s: int
    paid: tuple[Share, ...]
    instant_wei: Wei
    at: ChainRef


class StopRequested(Event, frozen=True, tag="stream.stop_requested.v1"):
    """Pay nothing any more; `final`: also close the escrow and refund the rest."""

    change: int
    terms: EscrowTerms
    final: bool
    reason: StopReason
    at_unix_ms: int


class Stopped(Event, frozen=True, tag="stream.stopped.v1"):
    """Nothing flows since the block's second. `paid` as in `stream.started`.

    `closed`: the escrow is closed and `refund_wei` went back (or became claimable by) the payer.
    """

    paid: tuple[Share, ...]
    instant_wei: Wei
    closed: bool
    refund_wei: Wei
    at: ChainRef


class StartFailed(Event, frozen=True, tag="stream.start_failed.v1"):
    """The chain refused the change for good; nothing was moved by it."""

    change: int
    code: str


class StopOverdue(Event, frozen=True, tag="stream.stop_overdue.v1"):
    """A stop was asked for `waited_ms` ago and the chain does not show it yet: others may stop it too."""

    change: int
    waited_ms: int


class Liquidated(Event, frozen=True, tag="stream.liquidated.v1"):
    """Somebody stopped a stream that had run out; `penalty_wei` of the payer's deposit went to others."""

    paid: tuple[Share, ...]
    penalty_wei: Wei
    at: ChainRef


class Reconciled(Event, frozen=True, tag="stream.reconciled.v1"):
    """What the chain shows and nobody told us: another's stop or close, or a receipt that was lost."""

    found: Literal["stopped", "closed", "running"]
    active: int
    rate_wei_per_s: Wei
    epoch: int
    hard_stop_unix_s: int
    paid: tuple[Share, ...]
    instant_wei: Wei
    refund_wei: Wei
    at: ChainRef


class Reverted(Event, frozen=True, tag="stream.reverted.v1"):
    """A reorg took the fact at `at` back, and with it what was paid and refunded by it."""

    paid: tuple[Share, ...]
    penalty_wei: Wei
    refund_wei: Wei
    at: ChainRef


Fact = Started | Stopped | Liquidated | Reconciled
StreamEvent = (
    StartRequested
    | Started
    | StopRequested
    | Stopped
    | StartFailed
    | StopOverdue
    | Liquidated
    | Reconciled
    | Reverted
)


class SetActive(msgspec.Struct, frozen=True):
    """`active` requests are in flight in `epoch` (0: none)."""

    terms: EscrowTerms
    epoch: int
    active: int
    at_unix_ms: int


class Close(msgspec.Struct, frozen=True):
    terms: EscrowTerms
    reason: StopReason
    at_unix_ms: int


class Observe(msgspec.Struct, frozen=True):
    """A receipt, or an entry of the chain's log, after the configured confirmations."""

    fact: Fact


class FailStart(msgspec.Struct, frozen=True):
    change: int
    code: str


class MarkOverdue(msgspec.Struct, frozen=True):
    change: int
    at_unix_ms: int


class Revert(msgspec.Struct, frozen=True):
    """The chain no longer has this entry."""

    at: ChainRef


StreamCommand = SetActive | Close | Observe | FailStart | MarkOverdue | Revert


class StreamUnknown(Rejected):
    """Nothing was ever asked of this session's escrow."""

    code = "stream_unknown"
    remedy = "Compare the log of the escrow's factory with the event log."


class StreamTermsDiffer(Rejected):
    """The session's escrow has other terms than these."""

    code = "stream_terms_differ"
    remedy = "One session has one escrow: use the terms of its first request."


class StreamFactInconsistent(Rejected):
    """A fact contradicts itself: it flows at no rate, or refunds without closing."""

    code = "stream_fact_inconsistent"
    remedy = "Read the receipt again from the chain; compare the contracts' version with this program's."


@dataclass(frozen=True)
class Wanted:
    """What was asked last. `since_unix_ms`: since when; `failed`: the chain refused it for good."""

    change: int
    active: int
    epoch: int
    final: bool
    since_unix_ms: int
    failed: bool = False
    overdue: bool = False


@dataclass(frozen=True)
class Seen:
    """A fact, reduced to what it does. `gda_pool`: whom a start pays, whatever `epoch` it was told with."""

    at: ChainRef
    active: int
    rate_wei_per_s: int
    epoch: int
    hard_stop_unix_s: int
    paid: tuple[Share, ...]
    penalty_wei: int
    refund_wei: int
    closed: bool
    gda_pool: str = ""


@dataclass(frozen=True)
class Absent:
    pass


@dataclass(frozen=True)
class Stream:
    """`seen` stands in the chain's order."""

    terms: EscrowTerms
    wanted: Wanted
    seen: tuple[Seen, ...] = ()

    @property
    def active(self) -> int:
        return self.seen[-1].active if self.seen else 0

    @property
    def closed(self) -> bool:
        return any(fact.closed for fact in self.seen)

    @property
    def paid_wei(self) -> int:
        """What all operators received."""
        return sum(total_wei(fact.paid) for fact in self.seen)

    @property
    def refund_wei(self) -> int:
        return sum(fact.refund_wei for fact in self.seen)

    @property
    def balanced(self) -> bool:
        """Closed, and every wei of the voucher is accounted for: only then may the session settle."""
        penalties = sum(fact.penalty_wei for fact in self.seen)
        return self.closed and self.paid_wei + penalties + self.refund_wei == int(self.terms.cap_wei)

    @property
    def satisfied(self) -> bool:
        """The chain shows what was asked last; otherwise it has to be sent (again)."""
        if self.closed:
            return True
        if self.wanted.final:
            return False
        if self.wanted.active == 0 or self.wanted.failed:
            return self.active == 0
        epoch = self.seen[-1].epoch if self.seen else 0
        return self.active == self.wanted.active and epoch == self.wanted.epoch


StreamState = Absent | Stream


def decide(command: StreamCommand, state: StreamState) -> tuple[StreamEvent, ...]:
    """Raises StreamUnknown, StreamTermsDiffer, StreamFactInconsistent."""
    match command:
        case SetActive():
            return _set_active(command, state)
        case Close(terms, reason, at_unix_ms):
            if isinstance(state, Stream):
                _same_terms(terms, state)
                if state.wanted.final or state.closed:
                    return ()
            return (StopRequested(_next_change(state), terms, True, reason, at_unix_ms),)
        case Observe(fact):
            if isinstance(state, Absent):
                raise StreamUnknown
            _check(fact)
            known = any(seen.at.key == fact.at.key for seen in state.seen)
            return () if known else (fact,)
        case FailStart(change, code):
            if isinstance(state, Absent) or state.satisfied:
                return ()
            asked = state.wanted.change == change and state.wanted.active > 0
            return (StartFailed(change, code),) if asked and not state.wanted.failed else ()
        case MarkOverdue(change, at_unix_ms):
            return _mark_overdue(change, at_unix_ms, state)
        case Revert(at):
            if isinstance(state, Absent):
                raise StreamUnknown
            return tuple(
                Reverted(seen.paid, str(seen.penalty_wei), str(seen.refund_wei), seen.at)
                for seen in state.seen
                if seen.at.key == at.key
            )
        case _:
            assert_never(command)


def _set_active(command: SetActive, state: StreamState) -> tuple[StreamEvent, ...]:
    if isinstance(state, Absent):
        if command.active == 0:
            return ()
    else:
        _same_terms(command.terms, state)
        wanted = state.wanted
        same_epoch = command.active == 0 or command.epoch == wanted.epoch
        if wanted.final or state.closed or (command.active == wanted.active and same_epoch):
            return ()
    change = _next_change(state)
    if command.active == 0:
        return (StopRequested(change, command.terms, False, "idle", command.at_unix_ms),)
    return (StartRequested(change, command.terms, command.epoch, command.active, command.at_unix_ms),)


def _mark_overdue(change: int, at_unix_ms: int, state: StreamState) -> tuple[StreamEvent, ...]:
    if isinstance(state, Absent) or state.satisfied:
        return ()
    wanted = state.wanted
    due = wanted.change == change and wanted.active == 0 and not wanted.overdue
    return (StopOverdue(change, at_unix_ms - wanted.since_unix_ms),) if due else ()


def _next_change(state: StreamState) -> int:
    return 1 if isinstance(state, Absent) else state.wanted.change + 1


def _same_terms(terms: EscrowTerms, state: Stream) -> None:
    if terms != state.terms:
        raise StreamTermsDiffer


def _check(fact: Fact) -> None:
    seen = _seen(fact)
    flows = seen.active > 0
    refunds_open = seen.refund_wei > 0 and not seen.closed
    misnamed = isinstance(fact, Reconciled) and (fact.found == "running") != flows
    if flows != (seen.rate_wei_per_s > 0) or seen.active < 0 or refunds_open or misnamed:
        raise StreamFactInconsistent(f"{fact.__struct_config__.tag} at {fact.at.tx}")


def _seen(fact: Fact) -> Seen:
    match fact:
        case Started():
            rate, hard_stop = int(fact.rate_wei_per_s), fact.hard_stop_unix_s
            paying = fact.gda_pool
            return Seen(fact.at, fact.active, rate, fact.epoch, hard_stop, fact.paid, 0, 0, False, paying)
        case Stopped():
            return Seen(fact.at, 0, 0, 0, 0, fact.paid, 0, int(fact.refund_wei), fact.closed)
        case Liquidated():
            return Seen(fact.at, 0, 0, 0, 0, fact.paid, int(fact.penalty_wei), 0, False)
        case Reconciled():
            rate, refund = int(fact.rate_wei_per_s), int(fact.refund_wei)
            closed, stop = fact.found == "closed", fact.hard_stop_unix_s
            return Seen(fact.at, fact.active, rate, fact.epoch, stop, fact.paid, 0, refund, closed)
        case _:
            assert_never(fact)


def evolve(state: StreamState, event: StreamEvent) -> StreamState:
    match event:
        case StartRequested():
            wanted = Wanted(event.change, event.active, event.epoch, False, event.at_unix_ms)
            return _wants(state, event.terms, wanted)
        case StopRequested():
            return _wants(state, event.terms, Wanted(event.change, 0, 0, event.final, event.at_unix_ms))
        case _ if isinstance(state, Absent):
            return state
        case Started() | Stopped() | Liquidated() | Reconciled():
            in_order = sorted((*state.seen, _seen(event)), key=lambda seen: seen.at.order)
            return replace(state, seen=tuple(in_order))
        case StartFailed():
            return replace(state, wanted=replace(state.wanted, failed=True))
        case StopOverdue():
            return replace(state, wanted=replace(state.wanted, overdue=True))
        case Reverted():
            kept = tuple(seen for seen in state.seen if seen.at.key != event.at.key)
            return replace(state, seen=kept)
        case _:
            assert_never(event)


def _wants(state: StreamState, terms: EscrowTerms, wanted: Wanted) -> Stream:
    return Stream(terms, wanted) if isinstance(state, Absent) else replace(state, wanted=wanted)


stream: Decider[StreamState, StreamCommand, StreamEvent] = Decider(Absent(), decide, evolve)
