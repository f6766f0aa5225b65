"""How a model's layers are cut over nodes, by memory and measured speed;
knows nothing of pools' history or of torch.
"""

import msgspec

from events.pool import TOTAL_UNITS, Proposed, Shard


class Candidate(msgspec.Struct, frozen=True):
    """A node that accepted: `memory_bytes` it offers, `matmul_gflops` it measured."""

    node_id: str
    mesh_key: str
    memory_bytes: int
    matmul_gflops: float


class Plan(msgspec.Struct, frozen=True):
    shards: tuple[Shard, ...]
    explanation: str


class ModelDoesNotFit(Exception):
    """model_does_not_fit: the nodes' memory together cannot hold the model;
    add nodes or choose a smaller model.
    """

    code = "model_does_not_fit"


_MEMORY_SHARE = 0.8
"""Part of a node's memory that weights may take; the rest is for KV caches and activations."""


def slice_bytes(terms: Proposed, first_layer: int, end_layer: int) -> int:
    """Weights of a range of layers, with the embeddings if it is the entry and the head if it is the exit."""
    embedding = terms.embedding_bytes if first_layer == 0 else 0
    head = terms.head_bytes if end_layer == terms.num_layers else 0
    return (end_layer - first_layer) * terms.layer_bytes + embedding + head


def room_bytes(memory_bytes: int) -> int:
    """What a node of so much memory may hold in weights."""
    return int(memory_bytes * _MEMORY_SHARE)


def plan_layers(terms: Proposed, candidates: tuple[Candidate, ...]) -> Plan:
    """Give each node layers in proportion to its speed, within its memory; ring order is the order given.

    The entry also holds the embeddings and the exit the head, which count as memory. Nodes beyond the number
    of layers stay out. Raises ModelDoesNotFit.
    """
    nodes = candidates[: terms.num_layers]
    if not nodes:
        raise ModelDoesNotFit("no node has accepted")
    room = [_room(terms, nodes, i) for i in range(len(nodes))]
    if sum(min(r, terms.num_layers) for r in room) < terms.num_layers or any(r < 1 for r in room):
        raise ModelDoesNotFit(
            f"{terms.num_layers} layers of {terms.layer_bytes} bytes; room for {room} layers"
        )
    layers = _apportion(terms.num_layers, [node.matmul_gflops for node in nodes], room)
    units = _apportion(TOTAL_UNITS, [float(n) for n in layers], [TOTAL_UNITS] * len(nodes))
    shards, first = [], 0
    for node, count, share in zip(nodes, layers, units, strict=True):
        shards.append(Shard(node.node_id, node.mesh_key, first, first + count, share))
        first += count
    lines = [
        f"{node.node_id}: layers {shard.first_layer}..{shard.end_layer - 1} of {terms.num_layers}, "
        f"{shard.units / 100:.2f} % of the income; {node.matmul_gflops:.1f} GFLOP/s, memory for {fits} layers"
        for node, shard, fits in zip(nodes, shards, room, strict=True)
    ]
    return Plan(tuple(shards), "Layers in proportion to measured speed, within memory.\n" + "\n".join(lines))


def _room(terms: Proposed, nodes: tuple[Candidate, ...], index: int) -> int:
    extra = (terms.embedding_bytes if index == 0 else 0) + (
        terms.head_bytes if index == len(nodes) - 1 else 0
    )
    return int((nodes[index].memory_bytes * _MEMORY_SHARE - extra) // max(1, terms.layer_bytes))


def _apportion(total: int, weights: list[float], limits: list[int]) -> list[int]:
    """`total` whole pieces in proportion to `weights`, at least 1 each, at most `limits`;
    exact and deterministic.
    """
    shares = [1] * len(weights)
    while sum(shares) < total:
        open_ends = [i for i in range(len(weights)) if shares[i] < limits[i]]
        target = sum(max(weights[i], 1e-9) for i in open_ends)
        left = total - sum(shares)
        wanted = [(max(weights[i], 1e-9) / target * total - shares[i], -i) for i in open_ends]
        best = max(range(len(open_ends)), key=lambda k: wanted[k])
        step = max(1, min(int(wanted[best][0]), left, limits[open_ends[best]] - shares[open_ends[best]]))
        shares[open_ends[best]] += step
    return shares
