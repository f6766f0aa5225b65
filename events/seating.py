"""Who gets a seat in a pool's next plan: the nodes that were named, or every one that can serve.

Pure, over the folded view. Knows nothing of how layers are cut (`events.planning`) or of who asks.
"""

from events import pool
from events.planning import Candidate, plan_layers
from events.view import View


def plan_of(view: View, pool_id: str, node_ids: tuple[str, ...]) -> pool.AdoptPlan:
    """Without `node_ids`: all usable members, but none of an operator whom the coalition has evicted.

    Whoever names a node takes it as it is: only the chain knows whom a steward has readmitted.
    Raises PoolUnknown, PoolRetired, NodeNotUsable and ModelDoesNotFit.
    """
    state = view.pools.get(pool_id)
    if not isinstance(state, pool.Forming):
        raise pool.PoolUnknown if state is None else pool.PoolRetired
    usable = {
        node_id: Candidate(
            node_id,
            present.registration.mesh_key,
            present.capabilities.memory_bytes,
            present.capabilities.matmul_gflops,
        )
        for node_id, present in view.present()
        if node_id in state.members
        and present.reachable
        and not present.draining
        and present.capabilities is not None
    }
    evicted = () if node_ids else tuple(node_id for node_id in sorted(usable) if view.evicted(state, node_id))
    wanted = node_ids or tuple(sorted(usable.keys() - set(evicted)))
    away = [node_id for node_id in wanted if node_id not in usable]
    if away:
        raise pool.NodeNotUsable(
            f"node {away[0]} has not accepted, is not reachable, or has not been measured"
        )
    if evicted and not wanted:
        raise pool.NodeNotUsable(f"the coalition has evicted the operator of every usable node: {evicted[0]}")
    plan = plan_layers(state.terms, tuple(usable[node_id] for node_id in wanted))
    left_out = [f"{node_id}: left out, for the coalition has evicted its operator" for node_id in evicted]
    return pool.AdoptPlan(plan.shards, "\n".join((plan.explanation, *left_out)))
