"""The cut of a model's layers: exact, within memory, in proportion to speed; or refused for a true reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events import pool
from events.planning import _MEMORY_SHARE, Candidate, ModelDoesNotFit, plan_layers
from tests.aggregates import digest, proposed, ulid

LAYER = 1000


def candidate(number: int, layers: int, gflops: float) -> Candidate:
    """A node with room for so many layers and nothing else."""
    return Candidate(ulid(number), digest(number), round(layers * LAYER / _MEMORY_SHARE) + 1, gflops)


def terms(num_layers: int, embedding: int = 0, head: int = 0) -> pool.Proposed:
    return proposed(num_layers=num_layers, layer_bytes=LAYER, embedding_bytes=embedding, head_bytes=head)


rooms = st.lists(st.tuples(st.integers(1, 90), st.floats(0, 1e6)), min_size=1, max_size=8)


@given(st.integers(1, 100), rooms)
def test_a_plan_tiles_the_model_within_memory(num_layers: int, nodes: list[tuple[int, float]]) -> None:
    candidates = tuple(candidate(n, room, speed) for n, (room, speed) in enumerate(nodes))
    used = nodes[:num_layers]
    if sum(room for room, _ in used) < num_layers:
        with pytest.raises(ModelDoesNotFit):
            plan_layers(terms(num_layers), candidates)
        return
    plan = plan_layers(terms(num_layers), candidates)
    edges = [0, *(shard.end_layer for shard in plan.shards)]
    assert [shard.first_layer for shard in plan.shards] == edges[:-1]
    assert edges[-1] == num_layers
    assert [shard.node_id for shard in plan.shards] == [item.node_id for item in candidates[:num_layers]]
    for shard, (room, _) in zip(plan.shards, used, strict=True):
        assert 1 <= shard.end_layer - shard.first_layer <= room
        assert shard.node_id in plan.explanation
    assert sum(shard.units for shard in plan.shards) == pool.TOTAL_UNITS


@given(st.integers(1, 60), rooms)
def test_the_pool_accepts_what_the_planner_plans(num_layers: int, nodes: list[tuple[int, float]]) -> None:
    candidates = tuple(candidate(n, 90, speed) for n, (_, speed) in enumerate(nodes))
    plan = plan_layers(terms(num_layers), candidates)
    members = tuple(pool.MemberAccepted(item.node_id, "sig") for item in candidates)
    state = pool.pool.fold((terms(num_layers), *members))
    (planned,) = pool.pool.decide(pool.AdoptPlan(plan.shards, plan.explanation), state)
    assert planned == pool.Planned(1, plan.shards, plan.explanation)


@given(st.integers(2, 200), st.lists(st.floats(1, 1000), min_size=2, max_size=6))
def test_a_faster_node_never_gets_fewer_layers(num_layers: int, speeds: list[float]) -> None:
    candidates = tuple(candidate(n, 1000, speed) for n, speed in enumerate(speeds))
    shards = plan_layers(terms(num_layers), candidates).shards
    counts = [shard.end_layer - shard.first_layer for shard in shards]
    for i, one in enumerate(counts):
        for j, other in enumerate(counts):
            if speeds[i] >= 2 * speeds[j]:
                assert one >= other - 1


def test_equal_nodes_share_equally() -> None:
    shards = plan_layers(terms(12), tuple(candidate(n, 12, 5.0) for n in range(3))).shards
    assert [(shard.first_layer, shard.end_layer) for shard in shards] == [(0, 4), (4, 8), (8, 12)]
    assert sorted(shard.units for shard in shards) == [3333, 3333, 3334]


def test_three_times_the_speed_is_three_times_the_layers() -> None:
    shards = plan_layers(terms(16), (candidate(1, 16, 30.0), candidate(2, 16, 10.0))).shards
    assert [shard.end_layer - shard.first_layer for shard in shards] == [12, 4]
    assert [shard.units for shard in shards] == [7500, 2500]


def test_embeddings_and_head_take_memory_of_the_ends() -> None:
    nodes = tuple(candidate(n, 6, 1.0) for n in range(3))
    with pytest.raises(ModelDoesNotFit):
        plan_layers(terms(12, embedding=4 * LAYER, head=4 * LAYER), nodes)
    fitting = plan_layers(terms(10, embedding=4 * LAYER, head=4 * LAYER), nodes).shards
    assert [shard.end_layer - shard.first_layer for shard in fitting] == [2, 6, 2]


def test_no_node_is_no_plan() -> None:
    with pytest.raises(ModelDoesNotFit):
        plan_layers(terms(4), ())
