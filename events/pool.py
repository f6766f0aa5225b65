"""A pool: a coalition of operators that serves one model, its members, its plan of layers and its epochs.

Knows nothing of sessions, of how layers are cut (`events.planning`) or of Superfluid.
"""

from dataclasses import dataclass, field, replace
from typing import Literal, assert_never

import msgspec
from msgspec.structs import replace as replace_shard

from events.coalition import CoalitionCommand, CoalitionEvent, EndCoalition, Openings, RevertCoalitionEnd
from events.coalition import CoalitionDiffers as CoalitionDiffers
from events.coalition import CoalitionEnded as CoalitionEnded
from events.coalition import CoalitionEndReverted as CoalitionEndReverted
from events.coalition import CoalitionEpochStale as CoalitionEpochStale
from events.coalition import CoalitionOpened as CoalitionOpened
from events.coalition import OpenCoalition as OpenCoalition
from events.coalition import PoolIsFree as PoolIsFree
from events.kernel import Decider, Event, Hash, Ulid, Wei
from events.pool_refusals import MemberNotAccepted as MemberNotAccepted
from events.pool_refusals import NodeNotUsable as NodeNotUsable
from events.pool_refusals import PlanInvalid as PlanInvalid
from events.pool_refusals import PoolAlreadyProposed as PoolAlreadyProposed
from events.pool_refusals import PoolRetired as PoolRetired
from events.pool_refusals import PoolUnknown as PoolUnknown
from events.pool_refusals import WeightsDiffer as WeightsDiffer

TOTAL_UNITS = 10_000
"""Shares of one epoch; a member's units are its share of the pool's income."""


class Shard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Decoder layers `[first_layer, end_layer)` on one node, in ring order; `units` of `TOTAL_UNITS`."""

    node_id: Ulid
    mesh_key: Hash
    first_layer: int
    end_layer: int
    units: int


class Proposed(Event, frozen=True, tag="pool.proposed.v1"):
    """What the coalition will serve. `price_wei_per_s` "0" is a free pool and says so."""

    name: str
    model: str
    revision: str
    weights_digest: Hash
    architecture: str
    num_layers: int
    layer_bytes: int
    embedding_bytes: int
    head_bytes: int
    dtype: Literal["float32", "bfloat16"]
    context_length: int
    kv_slots: int
    price_wei_per_s: Wei
    deterministic: bool = False


class MemberAccepted(Event, frozen=True, tag="pool.member_accepted.v1"):
    """An operator's consent, signed with the node's receipt key over `events.registration.acceptance`."""

    node_id: Ulid
    signature: str


class Planned(Event, frozen=True, tag="pool.planned.v1"):
    epoch: int
    shards: tuple[Shard, ...]
    explanation: str


class ShardReady(Event, frozen=True, tag="pool.shard_ready.v1"):
    epoch: int
    node_id: Ulid
    slice_bytes: int


class ShardFailed(Event, frozen=True, tag="pool.shard_failed.v1"):
    epoch: int
    node_id: Ulid
    code: str


class Activated(Event, frozen=True, tag="pool.activated.v1"):
    """The first epoch serves. The chain's references are null on a pool that has none (price 0)."""

    epoch: int
    gda_pool: str | None = None
    inft_id: str | None = None


class EpochChanged(Event, frozen=True, tag="pool.epoch_changed.v1"):
    """A later plan serves from now on; frames of the old epoch are dropped."""

    epoch: int
    gda_pool: str | None = None


class ShardReplaced(Event, frozen=True, tag="pool.shard_replaced.v1"):
    """`node_id` has left `epoch` and holds nothing of it any more.

    `successor_id` has exactly its layers since; null when the model was cut anew. `moved_requests` went on in
    mid-answer with the `kv_bytes` that the leaver sent.
    """

    epoch: int
    node_id: Ulid
    successor_id: Ulid | None
    moved_requests: int
    kv_bytes: int


class DrainBlocked(Event, frozen=True, tag="pool.drain_blocked.v1"):
    """A draining node goes on serving, because no other can take its layers; `detail` says why."""

    node_id: Ulid
    code: str
    detail: str


class Retired(Event, frozen=True, tag="pool.retired.v1"):
    reason: str


PoolEvent = (
    Proposed
    | MemberAccepted
    | Planned
    | ShardReady
    | ShardFailed
    | Activated
    | EpochChanged
    | ShardReplaced
    | DrainBlocked
    | CoalitionEvent
    | Retired
)


class Propose(msgspec.Struct, frozen=True):
    proposed: Proposed


class AcceptMember(msgspec.Struct, frozen=True):
    """The signature was verified by the gateway."""

    node_id: str
    signature: str


class AdoptPlan(msgspec.Struct, frozen=True):
    """Make `shards` the next epoch; every node must have accepted and the ranges must tile the model."""

    shards: tuple[Shard, ...]
    explanation: str


class ConfirmShard(msgspec.Struct, frozen=True):
    epoch: int
    node_id: str
    slice_bytes: int
    weights_digest: str


class ReportShardFailed(msgspec.Struct, frozen=True):
    epoch: int
    node_id: str
    code: str


class ReplaceShard(msgspec.Struct, frozen=True):
    """Make a plan the next epoch in which `successor_id` has exactly the layers and units of `node_id`.

    `mesh_key` is the successor's.
    """

    node_id: str
    successor_id: str
    mesh_key: str


class BlockDrain(msgspec.Struct, frozen=True):
    node_id: str
    code: str
    detail: str


class ReportDrained(msgspec.Struct, frozen=True):
    """A node's word that it has left `epoch`."""

    epoch: int
    node_id: str
    moved_requests: int
    kv_bytes: int


class Retire(msgspec.Struct, frozen=True):
    reason: str


PoolCommand = (
    Propose
    | AcceptMember
    | AdoptPlan
    | ConfirmShard
    | ReportShardFailed
    | ReplaceShard
    | BlockDrain
    | ReportDrained
    | CoalitionCommand
    | Retire
)


@dataclass(frozen=True)
class Absent:
    pass


@dataclass(frozen=True)
class Forming:
    """Proposed; `plan` is the epoch being loaded, `serving` the one that answers requests, `replaced` the one
    that answered before it.
    """

    terms: Proposed
    members: frozenset[str] = frozenset()
    plan: Planned | None = None
    ready: frozenset[str] = frozenset()
    failed: frozenset[str] = frozenset()
    serving: Planned | None = None
    replaced: Planned | None = None
    leaving: frozenset[tuple[int, str, str | None]] = frozenset()
    """(epoch, leaver, successor) of nodes that have not said yet that they have left."""
    blocked: frozenset[tuple[str, str]] = frozenset()
    """(node, detail) of drains that were told to be impossible since the last plan."""
    openings: Openings = field(default_factory=Openings)


@dataclass(frozen=True)
class Closed:
    terms: Proposed
    last_plan: Planned | None = None


PoolState = Absent | Forming | Closed


def decide(command: PoolCommand, state: PoolState) -> tuple[PoolEvent, ...]:
    """Raises the classes of `events.pool_refusals`, and what `Openings.decide` raises."""
    match state:
        case Absent():
            if isinstance(command, Propose):
                return (command.proposed,)
            raise PoolUnknown
        case Closed():
            if isinstance(command, Retire):
                return ()
            raise PoolRetired
        case Forming():
            return _decide_forming(command, state)
        case _:
            assert_never(state)


def _decide_forming(command: PoolCommand, state: Forming) -> tuple[PoolEvent, ...]:
    match command:
        case Propose(proposed):
            if proposed == state.terms:
                return ()
            raise PoolAlreadyProposed
        case AcceptMember(node_id, signature):
            return () if node_id in state.members else (MemberAccepted(node_id, signature),)
        case AdoptPlan(shards, explanation):
            _check_plan(shards, state)
            epoch = 1 if state.plan is None else state.plan.epoch + 1
            return (Planned(epoch, shards, explanation),)
        case ConfirmShard():
            return _confirm(command, state)
        case ReportShardFailed(epoch, node_id, code):
            current = state.plan is not None and epoch == state.plan.epoch and node_id not in state.failed
            return (ShardFailed(epoch, node_id, code),) if current else ()
        case ReplaceShard():
            return _replace(command, state)
        case BlockDrain(node_id, code, detail):
            known = (node_id, detail) in state.blocked or _shard_of(state.serving, node_id) is None
            return () if known else (DrainBlocked(node_id, code, detail),)
        case ReportDrained(epoch, node_id, moved_requests, kv_bytes):
            return tuple(
                ShardReplaced(epoch, node_id, successor, moved_requests, kv_bytes)
                for left, leaver, successor in state.leaving
                if (left, leaver) == (epoch, node_id)
            )
        case OpenCoalition() | EndCoalition() | RevertCoalitionEnd():
            epochs = {plan.epoch for plan in (state.plan, state.serving) if plan is not None}
            return state.openings.decide(command, state.terms.price_wei_per_s, epochs)
        case Retire(reason):
            return (Retired(reason),)
        case _:
            assert_never(command)


def _check_plan(shards: tuple[Shard, ...], state: Forming) -> None:
    edges = [0, *(shard.end_layer for shard in shards)]
    tiles = all(
        shard.first_layer == start < shard.end_layer for shard, start in zip(shards, edges, strict=False)
    )
    distinct = len({shard.node_id for shard in shards}) == len(shards)
    units = sum(shard.units for shard in shards) == TOTAL_UNITS and all(shard.units > 0 for shard in shards)
    if not (shards and tiles and distinct and units and edges[-1] == state.terms.num_layers):
        raise PlanInvalid
    missing = [shard.node_id for shard in shards if shard.node_id not in state.members]
    if missing:
        raise MemberNotAccepted(f"not accepted by node {missing[0]}")


def _shard_of(plan: Planned | None, node_id: str) -> Shard | None:
    return next((shard for shard in plan.shards if shard.node_id == node_id), None) if plan else None


def _replace(command: ReplaceShard, state: Forming) -> tuple[PoolEvent, ...]:
    """Nothing when the node is in no serving plan, or a plan without it is being loaded already."""
    serving, plan, leaver = state.serving, state.plan, command.node_id
    if serving is None or plan is None or _shard_of(serving, leaver) is None:
        return ()
    if _shard_of(plan, leaver) is None and not state.failed:
        return ()
    shards = tuple(
        replace_shard(shard, node_id=command.successor_id, mesh_key=command.mesh_key)
        if shard.node_id == leaver
        else shard
        for shard in serving.shards
    )
    _check_plan(shards, state)
    explanation = f"{command.successor_id} takes the layers of {leaver}, which is draining."
    return (Planned(plan.epoch + 1, shards, explanation),)


def _confirm(command: ConfirmShard, state: Forming) -> tuple[PoolEvent, ...]:
    plan = state.plan
    if plan is None or command.epoch != plan.epoch or command.node_id in state.ready:
        return ()
    nodes = {shard.node_id for shard in plan.shards}
    if command.node_id not in nodes:
        return ()
    if command.weights_digest != state.terms.weights_digest:
        raise WeightsDiffer
    ready = ShardReady(plan.epoch, command.node_id, command.slice_bytes)
    if state.ready | {command.node_id} != nodes:
        return (ready,)
    return (ready, Activated(plan.epoch) if state.serving is None else EpochChanged(plan.epoch))


def evolve(state: PoolState, event: PoolEvent) -> PoolState:
    if isinstance(event, Proposed):
        return Forming(event)
    if not isinstance(state, Forming):
        return state
    match event:
        case MemberAccepted(node_id):
            return replace(state, members=state.members | {node_id})
        case Planned():
            return replace(state, plan=event, ready=frozenset(), failed=frozenset(), blocked=frozenset())
        case ShardReady(_, node_id):
            return replace(state, ready=state.ready | {node_id}, failed=state.failed - {node_id})
        case ShardFailed(_, node_id):
            return replace(state, failed=state.failed | {node_id})
        case Activated() | EpochChanged():
            leaving = state.leaving | leavers(state.serving, state.plan)
            return replace(state, serving=state.plan, replaced=state.serving, leaving=leaving)
        case ShardReplaced(epoch, node_id, successor_id):
            return replace(state, leaving=state.leaving - {(epoch, node_id, successor_id)})
        case DrainBlocked(node_id, _, detail):
            return replace(state, blocked=state.blocked | {(node_id, detail)})
        case CoalitionOpened() | CoalitionEnded() | CoalitionEndReverted():
            return replace(state, openings=state.openings.after(event))
        case Retired():
            return Closed(state.terms, state.plan)
        case _:
            assert_never(event)


def leavers(before: Planned | None, after: Planned | None) -> frozenset[tuple[int, str, str | None]]:
    """Nodes that are in the old plan only, with who has exactly their layers in the new one, if anybody."""
    if before is None or after is None:
        return frozenset()
    now = {(shard.first_layer, shard.end_layer): shard.node_id for shard in after.shards}
    return frozenset(
        (before.epoch, shard.node_id, now.get((shard.first_layer, shard.end_layer)))
        for shard in before.shards
        if _shard_of(after, shard.node_id) is None
    )


pool: Decider[PoolState, PoolCommand, PoolEvent] = Decider(Absent(), decide, evolve)
