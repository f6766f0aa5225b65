"""Who takes over when a node drains: the policy that puts a successor in its place, or says why nobody can.

Pure, over the folded view. Knows nothing of how KV moves or of what a worker does.
"""

from collections.abc import Iterator

from events import node, pool
from events.planning import room_bytes, slice_bytes
from events.view import View

NO_SUCCESSOR = "no_successor"


def replacements(view: View, only_pool: str | None = None) -> Iterator[tuple[str, pool.PoolCommand]]:
    """(pool, command) for every draining node in a serving ring: replace it, or tell that nobody can."""
    for pool_id, state, serving in view.serving():
        if only_pool not in (None, pool_id):
            continue
        for shard in serving.shards:
            leaver = view.nodes.get(shard.node_id)
            if isinstance(leaver, node.Present) and leaver.draining:
                yield pool_id, _replacement(view, pool_id, state, serving, shard)


def _replacement(
    view: View, pool_id: str, state: pool.Forming, serving: pool.Planned, shard: pool.Shard
) -> pool.PoolCommand:
    """The fastest node that can; of equals the first by id."""
    ring = {other.node_id for other in serving.shards}
    able: list[tuple[float, str, node.Present]] = []
    why: list[str] = []
    for node_id in sorted(state.members - ring):
        found = view.nodes.get(node_id)
        unable = _unable(view, pool_id, state, found, node_id, shard)
        if unable is None and isinstance(found, node.Present) and found.capabilities is not None:
            able.append((-found.capabilities.matmul_gflops, node_id, found))
        else:
            why.append(f"{node_id} {unable}")
    if not able:
        detail = "; ".join(why) or "no node outside the ring has accepted this pool"
        return pool.BlockDrain(shard.node_id, NO_SUCCESSOR, detail)
    _, successor_id, successor = min(able, key=lambda item: item[:2])
    return pool.ReplaceShard(shard.node_id, successor_id, successor.registration.mesh_key)


def _unable(
    view: View,
    pool_id: str,
    state: pool.Forming,
    found: node.NodeState | None,
    node_id: str,
    shard: pool.Shard,
) -> str | None:
    """What keeps a node from taking the layers of `shard`; None when nothing does."""
    if not isinstance(found, node.Present):
        return "has retired"
    if found.draining:
        return "is draining too"
    if not found.reachable:
        return "is not reachable"
    if found.capabilities is None:
        return "has not been measured"
    if view.evicted(state, node_id):
        return "is of an operator whom the coalition has evicted"
    if node_id in state.failed:
        return "failed to load the last plan"
    needed = slice_bytes(state.terms, shard.first_layer, shard.end_layer)
    free = room_bytes(found.capabilities.memory_bytes) - _held_bytes(view, pool_id, node_id)
    return None if needed <= free else f"has {free} bytes free for weights, {needed} are needed"


def _held_bytes(view: View, pool_id: str, node_id: str) -> int:
    """Weights that a node holds for other pools."""
    return sum(
        slice_bytes(state.terms, shard.first_layer, shard.end_layer)
        for other_id, state, serving in view.serving()
        for shard in serving.shards
        if other_id != pool_id and shard.node_id == node_id
    )
