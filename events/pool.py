"""A pool: a coalition of operators that serves one model, its members, its plan of layers and its epochs.

Knows nothing of sessions, of how layers are cut (`events.planning`) or of Superfluid.
"""

from dataclasses import dataclass, replace
from typing import Literal, assert_never

import msgspec

from events.kernel import Decider, Event, Hash, Rejected, Ulid, Wei

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


class Retired(Event, frozen=True, tag="pool.retired.v1"):
    reason: str


PoolEvent = (
    Proposed | MemberAccepted | Planned | ShardReady | ShardFailed | Activated | EpochChanged | Retired
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


class Retire(msgspec.Struct, frozen=True):
    reason: str


PoolCommand = Propose | AcceptMember | AdoptPlan | ConfirmShard | ReportShardFailed | Retire


class PoolAlreadyProposed(Rejected):
    """A pool with this id was already proposed with other terms."""

    code = "pool_already_proposed"
    remedy = "Use a new pool id."


class PoolUnknown(Rejected):
    """No pool has this id."""

    code = "pool_unknown"
    remedy = "List the pools: computepool pools."


class PoolRetired(Rejected):
    """The pool has been retired."""

    code = "pool_retired"
    remedy = "Propose a new pool."


class PlanInvalid(Rejected):
    """The plan does not tile the model's layers, names a node twice, or its units do not add up."""

    code = "plan_invalid"
    remedy = "Every layer exactly once, each node once, units summing to 10000."


class MemberNotAccepted(Rejected):
    """The plan names a node whose operator has not accepted this pool."""

    code = "member_not_accepted"
    remedy = "Let the operator accept first: computepool worker accept."


class NodeNotUsable(Rejected):
    """A node named for the plan has not accepted, is not reachable, or has not been measured."""

    code = "node_not_usable"
    remedy = "Start its worker and let its operator accept the pool, then plan again."


class WeightsDiffer(Rejected):
    """A node loaded weights with another digest than the pool's."""

    code = "weights_differ"
    remedy = "Put the proposed revision of the model on the node."


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


@dataclass(frozen=True)
class Closed:
    terms: Proposed
    last_plan: Planned | None = None


PoolState = Absent | Forming | Closed


def decide(command: PoolCommand, state: PoolState) -> tuple[PoolEvent, ...]:
    """Raises PoolAlreadyProposed, PoolUnknown, PoolRetired, PlanInvalid, MemberNotAccepted, WeightsDiffer."""
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
            return replace(state, plan=event, ready=frozenset(), failed=frozenset())
        case ShardReady(_, node_id):
            return replace(state, ready=state.ready | {node_id}, failed=state.failed - {node_id})
        case ShardFailed(_, node_id):
            return replace(state, failed=state.failed | {node_id})
        case Activated() | EpochChanged():
            return replace(state, serving=state.plan, replaced=state.serving)
        case Retired():
            return Closed(state.terms, state.plan)
        case _:
            assert_never(event)


pool: Decider[PoolState, PoolCommand, PoolEvent] = Decider(Absent(), decide, evolve)
