"""A node drains: who takes its place, what is said when nobody can, and what follows from it."""

import pytest

from events import moves, node, pool, session
from events.policies import Dispatch, Do
from services.dispatch import message_of
from shard_runtime.messages import Adopt, Drain
from tests.aggregates import digest, opened, proposed, registered, request_started, shard, ulid
from tests.spec.test_policies import PLAN, POOL, SESSION, TERMS, Told, serving

MEASURED = node.CapabilitiesMeasured(100_000, 10.0, "cpu", "1")
DRAINED = node.Drained("upgrade")


def with_spares(*events: tuple[int, node.NodeEvent]) -> Told:
    """Nodes 1 and 2 serve; 3 and 4 have accepted and been measured; then `events` of nodes."""
    told = serving()
    for number in (3, 4):
        told.tell("node", ulid(number), registered(number))
        told.tell("node", ulid(number), MEASURED)
        told.tell("pool", POOL, pool.MemberAccepted(ulid(number), "sig"))
    for number, event in events:
        told.tell("node", ulid(number), event)
    return told


def commands(reactions: tuple[object, ...]) -> list[object]:
    return [reaction.command for reaction in reactions if isinstance(reaction, Do)]


def test_the_fastest_member_outside_the_ring_succeeds() -> None:
    told = with_spares((4, node.CapabilitiesMeasured(100_000, 11.0, "cpu", "1")))
    assert commands(told.tell("node", ulid(2), DRAINED)) == [pool.ReplaceShard(ulid(2), ulid(4), digest(4))]
    assert told.again() == told.again()


def test_of_equals_the_first_by_id_succeeds() -> None:
    first = min(ulid(3), ulid(4))
    [replace] = commands(with_spares().tell("node", ulid(1), DRAINED))
    assert isinstance(replace, pool.ReplaceShard)
    assert replace.successor_id == first


@pytest.mark.parametrize(
    ("event", "why"),
    [
        (node.Drained("too"), "is draining too"),
        (node.Lost(5), "is not reachable"),
        (node.Retired("sold"), "has retired"),
        (node.CapabilitiesMeasured(100, 99.0, "cpu", "1"), "has 80 bytes free for weights, 3500 are needed"),
    ],
)
def test_who_can_not_succeed_is_passed_over_and_named_when_nobody_is_left(
    event: node.NodeEvent, why: str
) -> None:
    told = with_spares((3, event))
    [replace] = commands(told.tell("node", ulid(2), DRAINED))
    assert replace == pool.ReplaceShard(ulid(2), ulid(4), digest(4))
    told = with_spares((3, event), (4, event))
    [blocked] = commands(told.tell("node", ulid(2), DRAINED))
    assert isinstance(blocked, pool.BlockDrain)
    assert (blocked.node_id, blocked.code) == (ulid(2), "no_successor")
    assert f"{ulid(3)} {why}" in blocked.detail
    assert f"{ulid(4)} {why}" in blocked.detail


def test_weights_held_for_another_pool_leave_less_room() -> None:
    told = with_spares((4, node.Lost(1)), (3, node.CapabilitiesMeasured(10_000, 9.0, "cpu", "1")))
    other = ulid(501)
    told.tell("pool", other, proposed(name="other"), pool.MemberAccepted(ulid(3), "sig"))
    told.tell("pool", other, pool.Planned(1, (shard(3, 0, 8, 10_000),), ""))
    told.tell("pool", other, pool.ShardReady(1, ulid(3), 1), pool.Activated(1))
    [blocked] = commands(told.tell("node", ulid(2), DRAINED))
    assert isinstance(blocked, pool.BlockDrain)
    assert "has -1000 bytes free" in blocked.detail


def test_a_blocked_drain_is_tried_again_when_somebody_accepts() -> None:
    told = serving()
    [blocked] = commands(told.tell("node", ulid(2), DRAINED))
    assert blocked == pool.BlockDrain(
        ulid(2), "no_successor", "no node outside the ring has accepted this pool"
    )
    told.tell("node", ulid(3), registered(3))
    told.tell("node", ulid(3), MEASURED)
    [replace] = commands(told.tell("pool", POOL, pool.MemberAccepted(ulid(3), "sig")))
    assert replace == pool.ReplaceShard(ulid(2), ulid(3), digest(3))


def replaced() -> tuple[Told, tuple[object, ...]]:
    told = with_spares()
    told.tell("session", SESSION, opened(), request_started(1, epoch=1))
    told.tell("node", ulid(2), DRAINED)
    told.tell("pool", POOL, pool.Planned(2, (PLAN.shards[0], shard(3, 5, 8, 3750)), "successor"))
    ready = (pool.ShardReady(2, ulid(1), 1), pool.ShardReady(2, ulid(3), 1))
    return told, told.tell("pool", POOL, *ready, pool.EpochChanged(2))


def test_the_successor_adopts_and_the_old_ring_drains() -> None:
    _, reactions = replaced()
    said = [(r.node_id, message_of(r)) for r in reactions if isinstance(r, Dispatch)]
    assert [(node_id, type(message)) for node_id, message in said] == [
        (ulid(3), Adopt), (ulid(1), Drain), (ulid(2), Drain),
    ]  # fmt: skip
    adopt, *drains = (message for _, message in said)
    assert isinstance(adopt, Adopt)
    assert (adopt.epoch, adopt.leaver.node_id, adopt.leaver.first_layer) == (2, ulid(2), 5)
    for drain in drains:
        assert isinstance(drain, Drain)
        assert (drain.epoch, drain.to_epoch) == (1, 2)
        assert [member.node_id for member in drain.members] == [ulid(1), ulid(3)]
    assert not commands(reactions)


def test_a_lost_successor_ends_only_what_moved_to_it() -> None:
    """What still runs in the old ring goes on there."""
    told, _ = replaced()
    assert not commands(told.tell("node", ulid(3), node.Lost(7)))
    told.tell("session", SESSION, moves.RequestResumed(ulid(1), 2, ulid(1), 3))
    [end] = commands(told.tell("node", ulid(3), node.Lost(8)))
    assert isinstance(end, session.EndGeneration)


def test_a_leaver_lost_while_it_drains_ends_what_still_runs_there() -> None:
    told, _ = replaced()
    [end] = commands(told.tell("node", ulid(2), node.Lost(7)))
    assert isinstance(end, session.EndGeneration)


def test_the_terms_say_what_a_slice_needs() -> None:
    """3 layers of 1000 bytes and the head."""
    assert (TERMS.layer_bytes, TERMS.head_bytes) == (1000, 500)
