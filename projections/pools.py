"""Pool events to rows of `pools`, `pool_members` and `pool_shards`; knows no other aggregate."""

from typing import assert_never

import msgspec

from events import pool
from events.envelope import Recorded
from projections.changes import Append, Change, Put

_TERMS = tuple(field.name for field in msgspec.structs.fields(pool.Proposed))


def changes_of(recorded: Recorded, event: pool.PoolEvent) -> tuple[Change, ...]:
    """Row changes of one pool event."""
    pool_id = recorded.aggregate_id
    seen = {"changed_unix_ms": recorded.time_unix_ms, "position": recorded.position}

    def put(**values: object) -> Put:
        return Put("pools", (pool_id,), values | seen)

    def put_shard(epoch: int, node_id: str, **values: object) -> Put:
        return Put("pool_shards", (pool_id, epoch, node_id), values | seen)

    match event:
        case pool.Proposed():
            return (Append("pools", _proposed(recorded, event) | seen),)
        case pool.MemberAccepted(node_id, signature):
            member = {
                "pool_id": pool_id,
                "node_id": node_id,
                "signature": signature,
                "accepted_unix_ms": recorded.time_unix_ms,
                "position": recorded.position,
            }
            return (Append("pool_members", member), put())
        case pool.Planned(epoch, shards, explanation):
            rows = (_planned(pool_id, epoch, index, shard) | seen for index, shard in enumerate(shards))
            return (
                *(Append("pool_shards", row) for row in rows),
                put(planned_epoch=epoch, plan_explanation=explanation, drain_blocked=None),
            )
        case pool.ShardReady(epoch, node_id, slice_bytes):
            ready = put_shard(epoch, node_id, state="ready", slice_bytes=slice_bytes, error_code=None)
            return (ready, put())
        case pool.ShardFailed(epoch, node_id, code):
            return (put_shard(epoch, node_id, state="failed", error_code=code), put())
        case pool.Activated(epoch, _, inft_id):
            return (put(serving_epoch=epoch, inft_id=inft_id),)
        case pool.EpochChanged(epoch):
            return (put(serving_epoch=epoch),)
        case pool.CoalitionOpened(coalition, _, epoch, chain_epoch, gda_pool):
            paid = put(coalition=coalition, gda_pool=gda_pool, paid_epoch=epoch, chain_epoch=chain_epoch)
            return (paid,)
        case pool.CoalitionEnded(_, chain_epoch):
            return (put(gda_pool=None, paid_epoch=None, chain_epoch=chain_epoch),)
        case pool.CoalitionEndReverted(_, chain_epoch, epoch, gda_pool):
            return (put(gda_pool=gda_pool, paid_epoch=epoch, chain_epoch=chain_epoch),)
        case pool.ShardReplaced(epoch, node_id):
            return (put_shard(epoch, node_id, state="replaced"), put())
        case pool.DrainBlocked(node_id, code, detail):
            return (put(drain_blocked=f"{node_id}: {code}: {detail}"),)
        case pool.Retired(reason):
            return (put(retired=True, reason=reason),)
        case _:
            assert_never(event)


def _proposed(recorded: Recorded, event: pool.Proposed) -> dict[str, object]:
    return {name: getattr(event, name) for name in _TERMS} | {
        "id": recorded.aggregate_id,
        "planned_epoch": None,
        "plan_explanation": None,
        "drain_blocked": None,
        "serving_epoch": None,
        "coalition": None,
        "gda_pool": None,
        "paid_epoch": None,
        "chain_epoch": None,
        "inft_id": None,
        "retired": False,
        "reason": None,
        "proposed_unix_ms": recorded.time_unix_ms,
        "created_position": recorded.position,
    }


def _planned(pool_id: str, epoch: int, ring_index: int, shard: pool.Shard) -> dict[str, object]:
    return {
        "pool_id": pool_id,
        "epoch": epoch,
        "node_id": shard.node_id,
        "ring_index": ring_index,
        "mesh_key": shard.mesh_key,
        "first_layer": shard.first_layer,
        "end_layer": shard.end_layer,
        "units": shard.units,
        "state": "loading",
        "slice_bytes": None,
        "error_code": None,
    }
