"""What follows from events and from the passing of time."""

from typing import Any

from events import node, policies, pool, session
from events.envelope import Recorded, decode_commit, encode_commit
from events.policies import AdmitNode, Dispatch, Do, ExpelNode
from events.view import View
from tests.aggregates import (
    FAR_FUTURE_MS,
    cause,
    generation_ended,
    opened,
    proposed,
    registered,
    request_started,
    shard,
    ulid,
)

POOL, SESSION = ulid(500), ulid(600)
ROUND_MS = 1_700_000_000_000
TERMS = proposed()
PLAN = pool.Planned(1, (shard(1, 0, 5, 6250), shard(2, 5, 8, 3750)), "why")


class Told:
    """A view, and the reactions to the last event told to it."""

    def __init__(self) -> None:
        self.view = View()
        self.last: Recorded | None = None

    def tell(
        self, kind: str, aggregate_id: str, *events: Any, at_unix_ms: int = ROUND_MS
    ) -> tuple[policies.Reaction, ...]:
        sequence = self.view.sequence + 1
        commit = encode_commit(kind, aggregate_id, 1, events, cause(f"{sequence}", at_unix_ms))
        reactions: tuple[policies.Reaction, ...] = ()
        headers = {"Nats-Msg-Id": commit.commit_id}
        for recorded in decode_commit(commit.subject, sequence, headers, commit.payload):
            self.view.apply(recorded)
            self.last = recorded
            reactions = policies.react(recorded, self.view)
        return reactions

    def again(self) -> tuple[policies.Reaction, ...]:
        assert self.last is not None
        return policies.react(self.last, self.view)


def serving() -> Told:
    told = Told()
    for number in (1, 2):
        told.tell("node", ulid(number), registered(number))
    told.tell("pool", POOL, TERMS, *(pool.MemberAccepted(ulid(n), "sig") for n in (1, 2)))
    told.tell("pool", POOL, PLAN)
    told.tell("pool", POOL, pool.ShardReady(1, ulid(1), 1), pool.ShardReady(1, ulid(2), 1), pool.Activated(1))
    return told


def test_a_registered_node_is_admitted_and_a_retired_one_expelled() -> None:
    told = Told()
    me = registered(1)
    assert told.tell("node", ulid(1), me) == (AdmitNode(ulid(1), me.nats_key),)
    assert told.tell("node", ulid(1), node.Retired("sold")) == (ExpelNode(ulid(1)),)


def test_a_plan_is_loaded_by_every_shard() -> None:
    told = Told()
    keys = (registered(1).receipt_key, registered(2).receipt_key)
    told.tell("node", ulid(1), registered(1))
    told.tell("node", ulid(2), registered(2))
    told.tell("pool", POOL, TERMS, pool.MemberAccepted(ulid(1), "s"), pool.MemberAccepted(ulid(2), "s"))
    reactions = told.tell("pool", POOL, PLAN)
    assert {r.receipt_keys for r in reactions if isinstance(r, Dispatch)} == {keys}
    assert [(r.node_id, r.name, r.plan) for r in reactions if isinstance(r, Dispatch)] == [
        (ulid(1), "load_slice", PLAN),
        (ulid(2), "load_slice", PLAN),
    ]
    assert len({r.command_id for r in reactions if isinstance(r, Dispatch)}) == 2


def test_every_node_of_an_old_epoch_drains_it_for_the_new_one() -> None:
    """The model is cut anew, so that nobody adopts anything."""
    told = serving()
    later = pool.Planned(2, (shard(2, 0, 8, 10_000),), "one left")
    told.tell("pool", POOL, later)
    ready = pool.ShardReady(2, ulid(2), 1)
    reactions = told.tell("pool", POOL, ready, pool.EpochChanged(2))
    assert [(r.node_id, r.name, r.plan, r.other) for r in reactions if isinstance(r, Dispatch)] == [
        (ulid(1), "drain", PLAN, later),
        (ulid(2), "drain", PLAN, later),
    ]


def test_a_retired_pool_is_unloaded() -> None:
    told = serving()
    reactions = told.tell("pool", POOL, pool.Retired("done"))
    assert [(r.node_id, r.name) for r in reactions if isinstance(r, Dispatch)] == [
        (ulid(1), "unload_slice"),
        (ulid(2), "unload_slice"),
    ]


def test_a_single_request_session_is_settled_after_its_request() -> None:
    told = serving()
    told.tell("session", SESSION, opened(single_request=True), request_started(1))
    (reaction,) = told.tell("session", SESSION, generation_ended(1))
    assert isinstance(reaction, Do)
    assert (reaction.kind, reaction.aggregate_id) == ("session", SESSION)
    assert reaction.command == session.Settle()


def test_a_longer_session_stays_open() -> None:
    told = serving()
    told.tell("session", SESSION, opened(), request_started(1))
    assert told.tell("session", SESSION, generation_ended(1)) == ()


def test_a_lost_node_ends_the_requests_of_its_ring_only() -> None:
    told = serving()
    told.tell("session", SESSION, opened(), request_started(1), request_started(2))
    told.tell("session", ulid(601), opened(pool_id=ulid(501)), request_started(3))
    reactions = told.tell("node", ulid(2), node.Lost(5))
    ended = [r for r in reactions if isinstance(r, Do)]
    cancelled = [r for r in reactions if isinstance(r, Dispatch)]
    assert {r.command.ended.request_id for r in ended} == {ulid(1), ulid(2)}
    assert {r.command.ended.error_code for r in ended} == {"node_lost"}
    assert {(r.node_id, r.request_id) for r in cancelled} == {(ulid(1), ulid(1)), (ulid(1), ulid(2))}
    assert len({r.command_id for r in ended} | {r.command_id for r in cancelled}) == 4


def test_a_repeated_event_repeats_its_reactions_with_the_same_ids() -> None:
    told = serving()
    told.tell("session", SESSION, opened(), request_started(1))
    assert told.tell("node", ulid(2), node.Lost(5)) == told.again()


def test_silence_loses_a_node_and_a_heartbeat_brings_it_back() -> None:
    told = serving()
    limit = policies.LOST_AFTER_MS
    seen = {ulid(1): 1000, ulid(2): 1000}
    assert policies.liveness(told.view, seen, 1000 + limit) == ()
    lost = policies.liveness(told.view, seen, 1001 + limit)
    assert [item.command for item in lost] == [node.MarkLost(1000), node.MarkLost(1000)]
    told.tell("node", ulid(1), node.Lost(1000))
    assert ulid(1) not in {item.aggregate_id for item in policies.liveness(told.view, seen, 1002 + limit)}
    seen[ulid(1)] = 1003 + limit
    back = policies.liveness(told.view, seen, 1004 + limit)
    assert [item.command for item in back if item.aggregate_id == ulid(1)] == [node.Recover(1003 + limit)]


def test_a_node_that_said_goodbye_does_not_come_back_by_its_old_heartbeats() -> None:
    told = serving()
    told.tell("node", ulid(1), node.Lost(2000))
    assert policies.liveness(told.view, {ulid(1): 1900, ulid(2): 1900}, 2100) == ()


def test_a_request_whose_report_never_came_is_ended() -> None:
    told = serving()
    told.tell("session", SESSION, opened(), request_started(1, deadline_unix_ms=1000))
    late = 1000 + policies.REPORT_GRACE_MS
    assert policies.overdue(told.view, late) == ()
    (found,) = policies.overdue(told.view, late + 1)
    assert isinstance(found.command, session.EndGeneration)
    assert found.command.ended.error_code == "no_report"
    assert session.session.decide(found.command, told.view.sessions[SESSION]) != ()


def test_a_session_past_its_time_expires() -> None:
    told = serving()
    told.tell("session", SESSION, opened(), request_started(1))
    (found,) = policies.overdue(told.view, FAR_FUTURE_MS)
    assert found.command == session.Expire(FAR_FUTURE_MS)


def test_the_view_forgets_closed_sessions_only() -> None:
    told = serving()
    told.tell("session", SESSION, opened())
    told.tell("session", ulid(601), opened())
    told.tell("session", SESSION, session.Settled(0, "0", "0"))
    assert set(told.view.sessions) == {ulid(601)}
    assert {key for key, _ in told.view.present()} == {ulid(1), ulid(2)}
    assert [(key, plan) for key, _, plan in told.view.serving()] == [(POOL, PLAN)]
