"""What follows for the money: a stream pays for the requests in flight; a closed escrow settles its session.

Pure, like `events.policies`, whose reactions these are too. Knows nothing of transactions: whoever sends them
looks at the streams that are not yet what was asked (`due`).
"""

from collections.abc import Iterator

from events import payment, pool, session, stream
from events.envelope import Recorded
from events.ids import policy_command_id
from events.policies import Dispatch, Do, Reaction
from events.view import View

STOP_OVERDUE_MS = 10_000
"""After so long without its stop on the chain, others are asked to stop a stream."""


def react(recorded: Recorded, view: View) -> tuple[Reaction, ...]:
    """What follows from one event for streams and paid sessions; `view` already contains the event."""
    key = recorded.aggregate_id
    match recorded.event:
        case session.RequestStarted() | session.GenerationEnded():
            return tuple(_follow_requests(recorded, view))
        case payment.CloseRequested(reason):
            final: stream.StopReason = "payer" if reason == "on_chain" else reason
            return (*_close(recorded, view, final), *_cancel(recorded, view, reason))
        case session.Expired():
            return tuple(_close(recorded, view, "expired"))
        case payment.PaymentReverted():
            return (*_close(recorded, view, "payment_reverted"), *_cancel(recorded, view, "payment_reverted"))
        case stream.Started():
            return (*_settle(recorded, view), *_as_told(recorded, view))
        case stream.Stopped() | stream.Liquidated() | stream.Reconciled():
            return tuple(_settle(recorded, view))
        case stream.Reverted():
            return tuple(_close_again(recorded, view))
        case stream.StartFailed(_, code):
            command = payment.RequestClose("start_failed")
            close = Do("session", key, command, policy_command_id(recorded.event_id, "close", 0))
            return (*_end_all(recorded, view, code), close)
        case pool.CoalitionOpened():
            return tuple(_follow_epoch(recorded, view))
        case _:
            return ()


def overdue(view: View, now_unix_ms: int) -> tuple[Do, ...]:
    """Budgets that are used up, and stops that the chain does not show."""
    found: list[Do] = []
    for session_id, state in view.streams.items():
        opened = view.sessions.get(session_id)
        flowing = state.seen[-1] if state.active else None
        used_up = flowing is not None and now_unix_ms >= flowing.hard_stop_unix_s * 1000
        if used_up and opened is not None and opened.closing is None:
            command = payment.RequestClose("budget")
            found.append(Do("session", session_id, command, f"budget:{session_id}"))
        wanted = state.wanted
        waited_ms = now_unix_ms - wanted.since_unix_ms
        stopping = wanted.active == 0 and not wanted.overdue
        if stopping and waited_ms > STOP_OVERDUE_MS and _is_due(session_id, state, view):
            mark = stream.MarkOverdue(wanted.change, now_unix_ms)
            found.append(Do("stream", session_id, mark, f"overdue:{session_id}:{wanted.change}"))
    return tuple(found)


def due(view: View) -> Iterator[tuple[str, stream.Stream]]:
    """Streams whose escrow has to be told (again) what is wanted."""
    for session_id, state in view.streams.items():
        if _is_due(session_id, state, view):
            yield session_id, state


def _is_due(session_id: str, state: stream.Stream, view: View) -> bool:
    """Nothing can be asked of an escrow whose voucher a reorg has taken away."""
    opened = view.sessions.get(session_id)
    funded = opened is None or opened.settlement is not None
    return funded and not state.satisfied


def _follow_requests(recorded: Recorded, view: View) -> Iterator[Do]:
    session_id = recorded.aggregate_id
    opened = view.sessions.get(session_id)
    if opened is None or opened.voucher is None:
        return
    if opened.closing is not None:
        yield from _settle(recorded, view)
        return
    if opened.terms.single_request and not opened.running:
        close = payment.RequestClose("single_request")
        yield Do("session", session_id, close, policy_command_id(recorded.event_id, "close", 0))
        return
    epoch = max((started.epoch for started in opened.running.values()), default=0)
    if opened.running:
        epoch = _paying(view, opened.terms.pool_id, session_id) or epoch
    command = stream.SetActive(opened.voucher.terms, epoch, len(opened.running), recorded.time_unix_ms)
    yield Do("stream", session_id, command, policy_command_id(recorded.event_id, "set-active", 0))


def _paying(view: View, pool_id: str, session_id: str) -> int | None:
    """The plan whose operators the coalition pays; a newer one may serve while its epoch is not open.

    A stream may have paid the newest epoch before the log knew that one, and was told with the number that
    was wanted then. Nothing is left to change on the chain, so that number is wanted as long as it runs.
    """
    state, flowing = view.pools.get(pool_id), view.streams.get(session_id)
    if not isinstance(state, pool.Forming):
        return None
    if flowing is not None and flowing.active and state.openings.pays(flowing.seen[-1].gda_pool):
        return flowing.seen[-1].epoch
    return state.openings.paying


def _as_told(recorded: Recorded, view: View) -> Iterator[Do]:
    """A start told with another number than is wanted meanwhile, though it pays the epoch that is open."""
    session_id = recorded.aggregate_id
    opened, state = view.sessions.get(session_id), view.streams.get(session_id)
    if opened is None or opened.closing is not None or not opened.running or state is None:
        return
    epoch = _paying(view, opened.terms.pool_id, session_id)
    told = state.seen[-1] if state.seen else None
    if told is None or not told.active or epoch != told.epoch or epoch == state.wanted.epoch:
        return
    command = stream.SetActive(state.terms, epoch, len(opened.running), recorded.time_unix_ms)
    yield Do("stream", session_id, command, policy_command_id(recorded.event_id, "as-told", 0))


def _follow_epoch(recorded: Recorded, view: View) -> Iterator[Do]:
    """The new epoch's operators are paid from now on for what still runs in this pool."""
    running = [
        (session_id, opened)
        for session_id, opened in view.sessions.items()
        if opened.terms.pool_id == recorded.aggregate_id and opened.running and opened.closing is None
    ]
    for n, (session_id, opened) in enumerate(running):
        if opened.voucher is not None:
            terms = opened.voucher.terms
            epoch = _paying(view, recorded.aggregate_id, session_id) or 0
            command = stream.SetActive(terms, epoch, len(opened.running), recorded.time_unix_ms)
            yield Do("stream", session_id, command, policy_command_id(recorded.event_id, "epoch", n))


def _close(recorded: Recorded, view: View, reason: stream.StopReason) -> Iterator[Do]:
    opened = view.sessions.get(recorded.aggregate_id)
    if opened is None or opened.voucher is None:
        return
    command = stream.Close(opened.voucher.terms, reason, recorded.time_unix_ms)
    command_id = policy_command_id(recorded.event_id, "close-stream", 0)
    yield Do("stream", recorded.aggregate_id, command, command_id)


def _close_again(recorded: Recorded, view: View) -> Iterator[Do]:
    """A reorg opened an escrow again that another had closed, and whose session ended by that."""
    key = recorded.aggregate_id
    opened, state = view.sessions.get(key), view.streams.get(key)
    ended = opened is None or opened.closing is not None
    if state is not None and ended and not state.closed and not state.wanted.final:
        command = stream.Close(state.terms, "payer", recorded.time_unix_ms)
        yield Do("stream", key, command, policy_command_id(recorded.event_id, "close-again", 0))


def _cancel(recorded: Recorded, view: View, reason: str) -> Iterator[Dispatch]:
    """The ring stops computing what nobody pays for; its entry then reports the end."""
    opened = view.sessions.get(recorded.aggregate_id)
    serving = {pool_id: (forming, plan) for pool_id, forming, plan in view.serving()}
    if opened is None or opened.terms.pool_id not in serving:
        return
    pool_id = opened.terms.pool_id
    forming, plan = serving[pool_id]
    pairs = [(request_id, shard.node_id) for request_id in opened.running for shard in plan.shards]
    for n, (request_id, node_id) in enumerate(pairs):
        command_id = policy_command_id(recorded.event_id, "cancel", n)
        yield Dispatch(node_id, "cancel", command_id, pool_id, plan, forming.terms, request_id, reason)


def _settle(recorded: Recorded, view: View) -> Iterator[Do]:
    """Only when every wei is accounted for, and never before the chain has closed the escrow."""
    state = view.streams.get(recorded.aggregate_id)
    if state is None or not state.balanced:
        return
    command = payment.SettlePayment(state.terms.cap_wei, str(state.refund_wei))
    command_id = policy_command_id(recorded.event_id, "settle-payment", 0)
    yield Do("session", recorded.aggregate_id, command, command_id)


def _end_all(recorded: Recorded, view: View, code: str) -> Iterator[Do]:
    opened = view.sessions.get(recorded.aggregate_id)
    if opened is None:
        return
    for n, started in enumerate(opened.running.values()):
        ended = session.GenerationEnded(
            started.request_id, "error", started.prompt_tokens, 0, None, code or "stream_start_failed"
        )
        command_id = policy_command_id(recorded.event_id, "end-request", n)
        yield Do("session", recorded.aggregate_id, session.EndGeneration(ended), command_id)
