"""Well-formed events and commands for tests, with ids made of small numbers; knows nothing of any test."""

from events import node, pool, session
from events.envelope import Cause
from events.ids import node_id_of

FAR_FUTURE_MS = 4_000_000_000_000


def ulid(number: int) -> str:
    """A well-formed lower-case ULID, another for every number."""
    return node_id_of(f"{number:064x}")


def digest(number: int) -> str:
    return f"{number:064x}"


def cause(command_id: str, at_unix_ms: int = 1_700_000_000_000) -> Cause:
    return Cause(command_id, "correlation", "causation", at_unix_ms)


def registered(number: int, **changes: object) -> node.Registered:
    values: dict[str, object] = {
        "node_id": ulid(number),
        "label": f"node {number}",
        "mesh_key": digest(number),
        "nats_key": f"U{number:055d}",
        "receipt_key": f"0x{number:040x}",
        "seal_key": digest(number + 1000),
        "payout_wallet": f"0x{number + 2000:040x}",
        "chain_id": 31337,
        "binding_digest": digest(number + 3000),
        "signatures": {"mesh": "aa", "nats": "bb", "receipt": "cc", "payout": "dd"},
    }
    return node.Registered(**(values | changes))  # type: ignore[arg-type]


def proposed(**changes: object) -> pool.Proposed:
    values: dict[str, object] = {
        "name": "tales",
        "model": "tales",
        "revision": "1",
        "weights_digest": digest(7),
        "architecture": "LlamaForCausalLM",
        "num_layers": 8,
        "layer_bytes": 1000,
        "embedding_bytes": 500,
        "head_bytes": 500,
        "dtype": "float32",
        "context_length": 256,
        "kv_slots": 4,
        "price_wei_per_s": "0",
    }
    return pool.Proposed(**(values | changes))  # type: ignore[arg-type]


def shard(number: int, first_layer: int, end_layer: int, units: int) -> pool.Shard:
    return pool.Shard(ulid(number), digest(number), first_layer, end_layer, units)


def opened(**changes: object) -> session.Opened:
    values: dict[str, object] = {
        "pool_id": ulid(500),
        "payer": "key:1",
        "price_wei_per_s": "0",
        "single_request": False,
        "close_by_unix_ms": FAR_FUTURE_MS,
    }
    return session.Opened(**(values | changes))  # type: ignore[arg-type]


def request_started(number: int, **changes: object) -> session.RequestStarted:
    values: dict[str, object] = {
        "request_id": ulid(number),
        "epoch": 1,
        "entry_node_id": ulid(1),
        "seed": "42",
        "prompt_commitment": digest(number),
        "prompt_tokens": 5,
        "max_tokens": 16,
        "deadline_unix_ms": FAR_FUTURE_MS - 1,
    }
    return session.RequestStarted(**(values | changes))  # type: ignore[arg-type]


def generation_ended(number: int, **changes: object) -> session.GenerationEnded:
    values: dict[str, object] = {
        "request_id": ulid(number),
        "finish_reason": "stop",
        "prompt_tokens": 5,
        "completion_tokens": 3,
        "output_commitment": digest(9),
    }
    return session.GenerationEnded(**(values | changes))  # type: ignore[arg-type]


def start_request(number: int) -> session.StartRequest:
    return session.StartRequest("key:1", request_started(number), 1_700_000_000_000)
