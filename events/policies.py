"""The process managers: what follows from an event or from the passing of time, as plain data.

Pure: a policy sees one recorded event and the folded view, and returns reactions; the orchestrator carries
them out. Knows nothing of NATS, of clocks (a moment is an argument) or of how a node is reached.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import msgspec

from events import node, pool, session, succession
from events.envelope import Recorded
from events.ids import policy_command_id
from events.view import View

LOST_AFTER_MS = 5_000
"""A node without a heartbeat for so long is lost."""
REPORT_GRACE_MS = 10_000
"""How long after a request's deadline its report may still come."""


class Do(msgspec.Struct, frozen=True):
    """Hand `command` to the aggregate; `command_id` makes a repetition harmless."""

    kind: str
    aggregate_id: str
    command: Any
    command_id: str


class Dispatch(msgspec.Struct, frozen=True):
    """Send a command to a node's work queue; `plan` is the one it belongs to.

    `other`: the plan to drain for, or the one that what is adopted comes from. `receipt_keys`: of the shards
    of the plan that the command tells of, in their order.
    """

    node_id: str
    name: Literal["load_slice", "unload_slice", "cancel", "drain", "adopt"]
    command_id: str
    pool_id: str
    plan: pool.Planned
    terms: pool.Proposed
    request_id: str = ""
    reason: str = ""
    receipt_keys: tuple[str, ...] = ()
    other: pool.Planned | None = None


class AdmitNode(msgspec.Struct, frozen=True):
    """Give a registered node its NATS user and its command consumer."""

    node_id: str
    nats_key: str


class ExpelNode(msgspec.Struct, frozen=True):
    """Take a retired node's NATS user and consumer away."""

    node_id: str


Reaction = Do | Dispatch | AdmitNode | ExpelNode


def react(recorded: Recorded, view: View) -> tuple[Reaction, ...]:
    """What follows from one event; `view` already contains it. Repeating a reaction changes nothing."""
    match recorded.event:
        case node.Registered(node_id, _, _, nats_key):
            return (AdmitNode(node_id, nats_key),)
        case node.Retired():
            return (ExpelNode(recorded.aggregate_id), *_end_requests_on(recorded, view, "node_retired"))
        case node.Lost():
            return tuple(_end_requests_on(recorded, view, "node_lost"))
        case pool.Planned() as plan:
            return _to_every_shard(recorded, view, plan, "load_slice")
        case node.Drained() | node.Recovered() | node.CapabilitiesMeasured():
            return tuple(_replace_draining(recorded, view))
        case pool.MemberAccepted() | pool.Activated():
            return tuple(_replace_draining(recorded, view, recorded.aggregate_id))
        case pool.EpochChanged():
            return (*_drain(recorded, view), *_replace_draining(recorded, view, recorded.aggregate_id))
        case pool.Retired():
            return _unload(recorded, view)
        case session.GenerationEnded():
            state = view.sessions.get(recorded.aggregate_id)
            free = state is not None and state.voucher is None
            if state is not None and free and state.terms.single_request and not state.running:
                command_id = policy_command_id(recorded.event_id, "settle", 0)
                return (Do("session", recorded.aggregate_id, session.Settle(), command_id),)
            return ()
        case _:
            return ()


def _to_every_shard(
    recorded: Recorded, view: View, plan: pool.Planned, name: Literal["load_slice", "unload_slice"]
) -> tuple[Reaction, ...]:
    state = view.pools.get(recorded.aggregate_id)
    if not isinstance(state, pool.Forming | pool.Closed):
        return ()
    receipt_keys = _receipt_keys(view, plan) if name == "load_slice" else ()
    return tuple(
        Dispatch(
            shard.node_id,
            name,
            policy_command_id(recorded.event_id, name, n),
            recorded.aggregate_id,
            plan,
            state.terms,
            receipt_keys=receipt_keys,
        )
        for n, shard in enumerate(plan.shards)
    )


def _receipt_keys(view: View, plan: pool.Planned) -> tuple[str, ...]:
    """As registered. What is no node (no history makes one) has no key, so no ring takes its word."""
    states = [view.nodes.get(shard.node_id, node.Absent()) for shard in plan.shards]
    return tuple("" if isinstance(state, node.Absent) else state.registration.receipt_key for state in states)


def _unload(recorded: Recorded, view: View) -> tuple[Reaction, ...]:
    state = view.pools.get(recorded.aggregate_id)
    if not isinstance(state, pool.Closed) or state.last_plan is None:
        return ()
    return _to_every_shard(recorded, view, state.last_plan, "unload_slice")


def _drain(recorded: Recorded, view: View) -> Iterator[Reaction]:
    """The old epoch ends: who takes a leaver's layers adopts its KV, and all of the old ring leave it."""
    state = view.pools.get(recorded.aggregate_id)
    if not isinstance(state, pool.Forming) or state.replaced is None or state.serving is None:
        return
    old, new = state.replaced, state.serving

    def dispatch(node_id: str, name: Literal["drain", "adopt"], plan: pool.Planned, n: int) -> Dispatch:
        command_id = policy_command_id(recorded.event_id, name, n)
        other = new if plan is old else old
        keys = _receipt_keys(view, other)
        pool_id, terms = recorded.aggregate_id, state.terms
        return Dispatch(node_id, name, command_id, pool_id, plan, terms, receipt_keys=keys, other=other)

    stay = {shard.node_id for shard in old.shards}
    successors = {successor for _, _, successor in pool.leavers(old, new) if successor is not None}
    for n, successor_id in enumerate(sorted(successors - stay)):
        yield dispatch(successor_id, "adopt", new, n)
    for n, shard in enumerate(old.shards):
        yield dispatch(shard.node_id, "drain", old, n)


def _replace_draining(recorded: Recorded, view: View, only_pool: str | None = None) -> Iterator[Reaction]:
    for n, (pool_id, command) in enumerate(succession.replacements(view, only_pool)):
        yield Do("pool", pool_id, command, policy_command_id(recorded.event_id, "succession", n))


def _end_requests_on(recorded: Recorded, view: View, error_code: str) -> Iterator[Reaction]:
    """Every request that runs through the node ends now; the other shards of its ring free what they hold."""
    n = 0
    for pool_id, state, plan in view.rings():
        if all(shard.node_id != recorded.aggregate_id for shard in plan.shards):
            continue
        for session_id, opened in view.sessions.items():
            if opened.terms.pool_id != pool_id:
                continue
            for started in opened.running.values():
                if started.epoch != plan.epoch:
                    continue
                ended = _failed(started, error_code)
                command_id = policy_command_id(recorded.event_id, "end-request", n)
                yield Do("session", session_id, session.EndGeneration(ended), command_id)
                for shard in plan.shards:
                    if shard.node_id != recorded.aggregate_id:
                        n += 1
                        yield Dispatch(
                            shard.node_id,
                            "cancel",
                            policy_command_id(recorded.event_id, "cancel", n),
                            pool_id,
                            plan,
                            state.terms,
                            started.request_id,
                            error_code,
                        )
                n += 1


def _failed(started: session.RequestStarted, error_code: str) -> session.GenerationEnded:
    return session.GenerationEnded(started.request_id, "error", started.prompt_tokens, 0, None, error_code)


def liveness(view: View, last_seen_unix_ms: Mapping[str, int], now_unix_ms: int) -> tuple[Do, ...]:
    """Nodes to declare lost or recovered.

    `last_seen_unix_ms` begins with the observer's own start for every node.
    """
    found: list[Do] = []
    for node_id, state in view.present():
        seen = last_seen_unix_ms.get(node_id, 0)
        silent = now_unix_ms - seen > LOST_AFTER_MS
        if state.reachable and silent:
            found.append(Do("node", node_id, node.MarkLost(seen), f"lost:{node_id}:{seen}"))
        elif not state.reachable and not silent and seen > state.lost_since_unix_ms:
            found.append(Do("node", node_id, node.Recover(seen), f"recovered:{node_id}:{seen}"))
    return tuple(found)


def overdue(view: View, now_unix_ms: int) -> tuple[Do, ...]:
    """Requests whose report never came and sessions past their closing time."""
    found: list[Do] = []
    for session_id, state in view.sessions.items():
        if now_unix_ms >= state.terms.close_by_unix_ms and state.closing is None:
            found.append(Do("session", session_id, session.Expire(now_unix_ms), f"expire:{session_id}"))
            continue
        for started in state.running.values():
            if now_unix_ms > started.deadline_unix_ms + REPORT_GRACE_MS:
                command = session.EndGeneration(_failed(started, "no_report"))
                found.append(Do("session", session_id, command, f"no-report:{started.request_id}"))
    return tuple(found)
