"""A session: what one voucher (or, on a free pool, one API key's request) opens, and the requests inside it.

Knows nothing of prompts or answers: it holds commitments and counts. Knows nothing of how a stream pays: of
money it hears what `events.payment` names.
"""

from dataclasses import dataclass, field, replace
from typing import Literal, assert_never

import msgspec

from events import moves, payment
from events.chain import ChainRef
from events.kernel import Decider, Event, Hash, Ulid, Wei
from events.session_refusals import EndingInconsistent as EndingInconsistent
from events.session_refusals import NotTheEntry as NotTheEntry
from events.session_refusals import NotThePayer as NotThePayer
from events.session_refusals import RequestAlreadyEnded as RequestAlreadyEnded
from events.session_refusals import SessionAlreadyOpen as SessionAlreadyOpen
from events.session_refusals import SessionBusy as SessionBusy
from events.session_refusals import SessionClosed as SessionClosed
from events.session_refusals import SessionUnknown as SessionUnknown

FinishReason = Literal["stop", "length", "cancelled", "error"]


class Opened(Event, frozen=True, tag="session.opened.v1"):
    """`payer` is "key:<api key id>" on a free pool, and an account's address on a paid one.

    A `single_request` session is settled after its one request.
    """

    pool_id: Ulid
    payer: str
    price_wei_per_s: Wei
    single_request: bool
    close_by_unix_ms: int


class RequestStarted(Event, frozen=True, tag="session.request_started.v1"):
    """The gateway drew `seed` (decimal, 64 bit) when the client gave none.

    Commitments are SHA-256(nonce || text).
    """

    request_id: Ulid
    epoch: int
    entry_node_id: Ulid
    seed: str
    prompt_commitment: Hash
    prompt_tokens: int
    max_tokens: int
    deadline_unix_ms: int


class GenerationEnded(Event, frozen=True, tag="session.generation_ended.v1"):
    """`receipts_root` names the receipts of a paid request that are kept for its payer, and tells nobody what
    they say; null when there are none.

    `receipts_missing`: nodes of the ring that computed and signed nothing that holds.
    `error_code` is set exactly when finish_reason is "error".
    """

    request_id: Ulid
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    output_commitment: Hash | None
    error_code: str | None = None
    receipts_root: Hash | None = None
    receipts_missing: tuple[Ulid, ...] = ()


class Settled(Event, frozen=True, tag="session.settled.v1"):
    """Nothing more will run in this session. Amounts are zero on a free pool.

    `paid_wei` is the voucher, so operators received `paid_wei - refund_wei`. When a reorg undid the refund,
    the last one holds.
    """

    requests: int
    paid_wei: Wei
    refund_wei: Wei


class Expired(Event, frozen=True, tag="session.expired.v1"):
    """`close_by_unix_ms` passed without a settlement."""

    at_unix_ms: int


SessionEvent = (
    payment.PaymentEvent | moves.MoveEvent | Opened | RequestStarted | GenerationEnded | Settled | Expired
)


class Open(msgspec.Struct, frozen=True):
    opened: Opened


class StartRequest(msgspec.Struct, frozen=True):
    """`payer` is who asks; `at_unix_ms` is now."""

    payer: str
    started: RequestStarted
    at_unix_ms: int


class EndGeneration(msgspec.Struct, frozen=True):
    """`reported_by` is the node that says so (it must be the request's entry), or None for our own timers."""

    ended: GenerationEnded
    reported_by: str | None = None


class Settle(msgspec.Struct, frozen=True):
    """The payer wants no more requests: a free session is settled, a paid one begins to close."""


class Expire(msgspec.Struct, frozen=True):
    at_unix_ms: int


SessionCommand = (
    payment.PaymentCommand | moves.MoveCommand | Open | StartRequest | EndGeneration | Settle | Expire
)


@dataclass(frozen=True)
class Absent:
    pass


@dataclass(frozen=True)
class OpenSession:
    """`payment` is None on a free pool; `settlement` is None while a reorg has taken it back.

    `closing` says why a paid session takes no more requests while its money settles.
    """

    terms: Opened
    running: dict[str, RequestStarted] = field(default_factory=dict)
    ended: frozenset[str] = frozenset()
    voucher: payment.PaymentVerified | None = None
    settlement: ChainRef | None = None
    closing: str | None = None
    moved: frozenset[tuple[str, int, str]] = frozenset()
    """(request, epoch, leaver) of the moves so far."""


@dataclass(frozen=True)
class Closed:
    """Of a paid session: what its voucher came to, which a reorg can still change."""

    terms: Opened
    voucher: payment.PaymentVerified | None = None
    settlement: ChainRef | None = None
    settled: Settled | None = None


SessionState = Absent | payment.Paying | OpenSession | Closed | payment.Unpaid


def decide(command: SessionCommand, state: SessionState) -> tuple[SessionEvent, ...]:
    """Raises SessionAlreadyOpen, SessionUnknown, SessionClosed, SessionBusy, NotThePayer, NotTheEntry,
    NotTheLeaver, RequestAlreadyEnded, EndingInconsistent, PaymentMissing, PaymentUnequal,
    ConcurrencyExceeded.
    """
    match state:
        case Absent():
            return _decide_absent(command)
        case payment.Paying(voucher):
            return _decide_paying(command, voucher)
        case Closed():
            return _decide_closed(command, state)
        case payment.Unpaid():
            if isinstance(command, Open | StartRequest | payment.VerifyPayment | payment.ConfirmPayment):
                raise SessionClosed
            return ()
        case OpenSession():
            return _decide_open(command, state)
        case _:
            assert_never(state)


def _decide_absent(command: SessionCommand) -> tuple[SessionEvent, ...]:
    match command:
        case Open(opened):
            if opened.price_wei_per_s != "0":
                raise payment.PaymentMissing
            return (opened,)
        case payment.VerifyPayment(verified):
            return (verified,)
        case _:
            raise SessionUnknown


def _decide_paying(command: SessionCommand, voucher: payment.PaymentVerified) -> tuple[SessionEvent, ...]:
    match command:
        case payment.ConfirmPayment(at):
            terms, close_by = voucher.terms, voucher.close_by_unix_ms
            price, single = terms.rate_wei_per_s, voucher.single_request
            opened = Opened(terms.pool_id, terms.payer, price, single, close_by)
            return (payment.PaymentSettled(terms.cap_wei, at), opened)
        case Open():
            raise SessionAlreadyOpen
        case StartRequest():
            raise payment.PaymentMissing
        case payment.VerifyPayment(verified) if verified != voucher:
            raise SessionAlreadyOpen
        case payment.FailPayment(code):
            return (payment.PaymentReverted(code, "0"),)
        case _:
            return ()


def _decide_closed(command: SessionCommand, state: Closed) -> tuple[SessionEvent, ...]:
    match command:
        case Open() | StartRequest() | payment.VerifyPayment():
            raise SessionClosed
        case payment.SettlePayment() if state.voucher is not None and state.settled is not None:
            settled = _settled(command, state.voucher, state.settled.requests)
            return () if settled == state.settled else (settled,)
        case payment.ConfirmPayment() | payment.RevertPayment() | payment.FailPayment():
            if state.voucher is None or state.settled is None:
                return ()
            return _settlement(command, state, state.voucher.terms.cap_wei)
        case _:
            return ()


def _settlement(
    command: payment.ConfirmPayment | payment.RevertPayment | payment.FailPayment,
    state: OpenSession | Closed,
    cap_wei: Wei,
) -> tuple[SessionEvent, ...]:
    """The voucher's transfer comes, is taken back by a reorg, comes again, or never will."""
    match command:
        case payment.ConfirmPayment(at):
            return (payment.PaymentSettled(cap_wei, at),) if state.settlement is None else ()
        case payment.RevertPayment(at):
            gone = state.settlement is not None and state.settlement.key == at.key
            return (payment.PaymentReverted("reorg", cap_wei, at),) if gone else ()
        case payment.FailPayment(code):
            if state.settlement is not None:
                return ()
            running = _cut_off(state, "payment_reverted") if isinstance(state, OpenSession) else ()
            return (*running, payment.PaymentReverted(code, "0"))
        case _:
            assert_never(command)


def _decide_open(command: SessionCommand, state: OpenSession) -> tuple[SessionEvent, ...]:
    match command:
        case Open(opened):
            if opened == state.terms:
                return ()
            raise SessionAlreadyOpen
        case StartRequest():
            return _start(command, state)
        case moves.ResumeRequest() | moves.MoveKv():
            return moves.decide(command, state)
        case EndGeneration():
            return _end(command, state)
        case Settle():
            if state.running:
                raise SessionBusy
            if state.voucher is None:
                return (Settled(len(state.ended), "0", "0"),)
            return (payment.CloseRequested("payer"),) if state.closing is None else ()
        case Expire(at_unix_ms):
            if at_unix_ms < state.terms.close_by_unix_ms or state.closing is not None:
                return ()
            return (*_cut_off(state, "session_expired"), Expired(at_unix_ms))
        case _:
            return () if state.voucher is None else _money(command, state, state.voucher)


def _money(
    command: payment.PaymentCommand, state: OpenSession, voucher: payment.PaymentVerified
) -> tuple[SessionEvent, ...]:
    """What happens to the money of an open paid session."""
    match command:
        case payment.ConfirmPayment() | payment.RevertPayment() | payment.FailPayment():
            return _settlement(command, state, voucher.terms.cap_wei)
        case payment.RequestClose(reason):
            return (payment.CloseRequested(reason),) if state.closing is None else ()
        case payment.SettlePayment():
            closing = (payment.CloseRequested("on_chain"),) if state.closing is None else ()
            if state.running:
                return closing
            return (*closing, _settled(command, voucher, len(state.ended)))
        case payment.VerifyPayment(verified):
            if verified != voucher:
                raise SessionAlreadyOpen
            return ()
        case _:
            assert_never(command)


def _settled(command: payment.SettlePayment, voucher: payment.PaymentVerified, requests: int) -> Settled:
    if command.paid_wei != voucher.terms.cap_wei or int(command.refund_wei) > int(command.paid_wei):
        raise payment.PaymentUnequal(f"{command.paid_wei} paid, {command.refund_wei} refunded")
    return Settled(requests, command.paid_wei, command.refund_wei)


def _start(command: StartRequest, state: OpenSession) -> tuple[SessionEvent, ...]:
    started = command.started
    if command.payer != state.terms.payer:
        raise NotThePayer
    if started.request_id in state.ended:
        raise RequestAlreadyEnded
    if started.request_id in state.running:
        return ()
    if command.at_unix_ms >= state.terms.close_by_unix_ms or state.closing is not None:
        raise SessionClosed
    if state.terms.single_request and (state.running or state.ended):
        raise SessionClosed
    if state.voucher is not None and len(state.running) >= state.voucher.max_concurrent:
        raise payment.ConcurrencyExceeded
    return (started,)


def _end(command: EndGeneration, state: OpenSession) -> tuple[SessionEvent, ...]:
    started = state.running.get(command.ended.request_id)
    if started is None:
        return ()
    if command.reported_by not in (None, started.entry_node_id):
        raise NotTheEntry
    ended = command.ended
    if (ended.finish_reason == "error") != (ended.error_code is not None):
        raise EndingInconsistent(f"{ended.finish_reason} with error code {ended.error_code}")
    if not 0 <= ended.completion_tokens <= started.max_tokens or ended.prompt_tokens < 0:
        raise EndingInconsistent(f"{ended.completion_tokens} tokens of at most {started.max_tokens}")
    return (ended,)


def _cut_off(state: OpenSession, code: str) -> tuple[GenerationEnded, ...]:
    return tuple(
        GenerationEnded(started.request_id, "error", started.prompt_tokens, 0, None, code)
        for started in state.running.values()
    )


def evolve(state: SessionState, event: SessionEvent) -> SessionState:
    match event:
        case payment.PaymentVerified():
            return payment.Paying(event)
        case Opened():
            if isinstance(state, payment.Paying):
                return OpenSession(event, voucher=state.voucher, settlement=state.settlement)
            return OpenSession(event)
        case Settled():
            if isinstance(state, OpenSession | Closed):
                return Closed(state.terms, state.voucher, state.settlement, event if state.voucher else None)
            return state
        case payment.PaymentSettled(_, at) if isinstance(state, payment.Paying):
            return payment.Paying(state.voucher, at)
        case payment.PaymentReverted() if isinstance(state, payment.Paying):
            return payment.Unpaid(state.voucher)
        case payment.PaymentSettled(_, at) if isinstance(state, OpenSession | Closed):
            return replace(state, settlement=at)
        case payment.PaymentReverted(_, _, at) if isinstance(state, Closed):
            return replace(state, settlement=None, settled=state.settled if at else None)
        case _ if isinstance(state, OpenSession):
            return _evolve_open(state, event)
        case _:
            return state


def _evolve_open(state: OpenSession, event: SessionEvent) -> SessionState:
    match event:
        case RequestStarted():
            return replace(state, running={**state.running, event.request_id: event})
        case moves.RequestResumed() | moves.KvMoved():
            return moves.evolve(state, event)
        case GenerationEnded():
            running = {key: value for key, value in state.running.items() if key != event.request_id}
            return replace(state, running=running, ended=state.ended | {event.request_id})
        case Expired():
            if state.voucher is None:
                return Closed(state.terms)
            return replace(state, closing="expired")
        case payment.CloseRequested(reason):
            return replace(state, closing=reason)
        case payment.PaymentReverted(_, _, None):
            return Closed(state.terms, state.voucher)
        case payment.PaymentReverted():
            return replace(state, settlement=None, closing=state.closing or "payment_reverted")
        case _:
            return state


session: Decider[SessionState, SessionCommand, SessionEvent] = Decider(Absent(), decide, evolve)
