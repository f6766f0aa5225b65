"""A session: what one voucher (or, on a free pool, one API key's request) opens, and the requests inside it.

Knows nothing of prompts or answers: it holds commitments and counts. Knows nothing of how a stream pays.
"""

from dataclasses import dataclass, field, replace
from typing import Literal, assert_never

import msgspec

from events.kernel import Decider, Event, Hash, Rejected, Ulid, Wei

FinishReason = Literal["stop", "length", "cancelled", "error"]


class Opened(Event, frozen=True, tag="session.opened.v1"):
    """`payer` is "key:<api key id>" on a free pool.

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
    """`receipts_root` is null until nodes sign receipts.

    `error_code` is set exactly when finish_reason is "error".
    """

    request_id: Ulid
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    output_commitment: Hash | None
    error_code: str | None = None
    receipts_root: Hash | None = None


class Settled(Event, frozen=True, tag="session.settled.v1"):
    """Nothing more will run in this session. Amounts are zero on a free pool."""

    requests: int
    paid_wei: Wei
    refund_wei: Wei


class Expired(Event, frozen=True, tag="session.expired.v1"):
    """`close_by_unix_ms` passed without a settlement."""

    at_unix_ms: int


SessionEvent = Opened | RequestStarted | GenerationEnded | Settled | Expired


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
    pass


class Expire(msgspec.Struct, frozen=True):
    at_unix_ms: int


SessionCommand = Open | StartRequest | EndGeneration | Settle | Expire


class SessionAlreadyOpen(Rejected):
    """A session with this id is already open with other terms."""

    code = "session_already_open"
    remedy = "Use a new session id."


class SessionUnknown(Rejected):
    """No session has this id."""

    code = "session_unknown"
    remedy = "Open a session first: POST /sessions."


class SessionClosed(Rejected):
    """The session is settled or expired."""

    code = "session_closed"
    remedy = "Open a new session."


class SessionBusy(Rejected):
    """The session still has a request in flight."""

    code = "session_busy"
    remedy = "Wait until the request ends, or cancel it."


class NotThePayer(Rejected):
    """Only the payer who opened the session may use it."""

    code = "not_the_payer"
    remedy = "Use the credentials that opened the session."


class NotTheEntry(Rejected):
    """A node reported the end of a request that another node answers."""

    code = "not_the_entry"
    remedy = "Only the entry node of the request's ring may report its end."


class EndingInconsistent(Rejected):
    """The report contradicts itself or the request: its error code, or its count of tokens."""

    code = "ending_inconsistent"
    remedy = "Update the worker: error_code goes with finish_reason error; tokens are 0..max_tokens."


class RequestAlreadyEnded(Rejected):
    """This request id was already used in the session."""

    code = "request_already_ended"
    remedy = "Use a new request id."


@dataclass(frozen=True)
class Absent:
    pass


@dataclass(frozen=True)
class OpenSession:
    terms: Opened
    running: dict[str, RequestStarted] = field(default_factory=dict)
    ended: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Closed:
    terms: Opened


SessionState = Absent | OpenSession | Closed


def decide(command: SessionCommand, state: SessionState) -> tuple[SessionEvent, ...]:
    """Raises SessionAlreadyOpen, SessionUnknown, SessionClosed, SessionBusy, NotThePayer,
    NotTheEntry, RequestAlreadyEnded, EndingInconsistent.
    """
    match state:
        case Absent():
            if isinstance(command, Open):
                return (command.opened,)
            raise SessionUnknown
        case Closed():
            if isinstance(command, Settle | Expire | EndGeneration):
                return ()
            raise SessionClosed
        case OpenSession():
            return _decide_open(command, state)
        case _:
            assert_never(state)


def _decide_open(command: SessionCommand, state: OpenSession) -> tuple[SessionEvent, ...]:
    match command:
        case Open(opened):
            if opened == state.terms:
                return ()
            raise SessionAlreadyOpen
        case StartRequest():
            return _start(command, state)
        case EndGeneration():
            return _end(command, state)
        case Settle():
            if state.running:
                raise SessionBusy
            return (Settled(len(state.ended), "0", "0"),)
        case Expire(at_unix_ms):
            if at_unix_ms < state.terms.close_by_unix_ms:
                return ()
            return (*(_cut_off(started) for started in state.running.values()), Expired(at_unix_ms))
        case _:
            assert_never(command)


def _start(command: StartRequest, state: OpenSession) -> tuple[SessionEvent, ...]:
    started = command.started
    if command.payer != state.terms.payer:
        raise NotThePayer
    if command.at_unix_ms >= state.terms.close_by_unix_ms:
        raise SessionClosed
    if started.request_id in state.ended:
        raise RequestAlreadyEnded
    if started.request_id in state.running:
        return ()
    if state.terms.single_request and (state.running or state.ended):
        raise SessionClosed
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


def _cut_off(started: RequestStarted) -> GenerationEnded:
    return GenerationEnded(started.request_id, "error", started.prompt_tokens, 0, None, "session_expired")


def evolve(state: SessionState, event: SessionEvent) -> SessionState:
    if isinstance(event, Opened):
        return OpenSession(event)
    if not isinstance(state, OpenSession):
        return state
    match event:
        case RequestStarted():
            return replace(state, running={**state.running, event.request_id: event})
        case GenerationEnded():
            running = {key: value for key, value in state.running.items() if key != event.request_id}
            return replace(state, running=running, ended=state.ended | {event.request_id})
        case Settled() | Expired():
            return Closed(state.terms)
        case _:
            assert_never(event)


session: Decider[SessionState, SessionCommand, SessionEvent] = Decider(Absent(), decide, evolve)
