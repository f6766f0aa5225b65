"""Node events to rows of `nodes`; knows no other aggregate."""

from typing import assert_never

from events import node
from events.envelope import Recorded
from projections.changes import Append, Change, Put


def changes_of(recorded: Recorded, event: node.NodeEvent) -> tuple[Change, ...]:
    """Row changes of one node event."""
    seen = {"changed_unix_ms": recorded.time_unix_ms, "position": recorded.position}

    def put(**values: object) -> tuple[Change, ...]:
        return (Put("nodes", (recorded.aggregate_id,), values | seen),)

    match event:
        case node.Registered():
            return (Append("nodes", _registered(recorded, event) | seen),)
        case node.CapabilitiesMeasured(memory_bytes, matmul_gflops, device, runtime_version):
            return put(
                memory_bytes=memory_bytes,
                matmul_gflops=matmul_gflops,
                device=device,
                runtime_version=runtime_version,
            )
        case node.Drained(reason):
            return put(draining=True, reason=reason)
        case node.Lost():
            return put(reachable=False)
        case node.Recovered():
            return put(reachable=True)
        case node.Retired(reason):
            return put(retired=True, reason=reason)
        case _:
            assert_never(event)


def _registered(recorded: Recorded, event: node.Registered) -> dict[str, object]:
    return {
        "id": recorded.aggregate_id,
        "label": event.label,
        "mesh_key": event.mesh_key,
        "nats_key": event.nats_key,
        "receipt_key": event.receipt_key,
        "seal_key": event.seal_key,
        "payout_wallet": event.payout_wallet,
        "chain_id": event.chain_id,
        "device": None,
        "memory_bytes": None,
        "matmul_gflops": None,
        "runtime_version": None,
        "reachable": True,
        "draining": False,
        "retired": False,
        "reason": None,
        "registered_unix_ms": recorded.time_unix_ms,
        "created_position": recorded.position,
    }
