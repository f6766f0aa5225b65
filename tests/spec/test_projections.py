"""Given events of one aggregate, then these rows: a pool's epochs, a session's requests, a node's days."""

from typing import Any

import msgspec
import pytest

from events import moves, node, pool, session
from events.envelope import Recorded
from events.kernel import Event
from projections.changes import Batch, ProjectionBroken
from projections.read_model import fold
from projections.tables import KEYS
from tests.money import ref

A, B, REQUEST = "01k0000000000000000000000a", "01k0000000000000000000000b", "01k0000000000000000000000r"
HASH = "ab" * 32

PROPOSED = pool.Proposed(
    "tiny", "tiny-model", "local", HASH, "LlamaForCausalLM", 8, 10, 20, 30, "float32", 512, 4, "0"
)
OPENED = session.Opened(A, "key:k", "0", False, 10_000)
STARTED = session.RequestStarted(REQUEST, 1, A, "42", HASH, 5, 16, 9_000)
REGISTERED = node.Registered(
    A, "desk", HASH, "U" * 56, "0x" + "1" * 40, HASH, "0x" + "2" * 40, 31337, HASH, {}
)


def given(kind: str, *events: Event) -> Batch:
    """All rows after the events, one message each, 1 s apart, from sequence 1."""
    history = [
        Recorded(
            sequence=number,
            index=0,
            kind=kind,
            aggregate_id=B,
            version=number,
            event_id=f"event-{number}",
            commit_id=f"commit-{number}",
            command_id=f"command-{number}",
            type=str(event.__struct_config__.tag),
            time_unix_ms=1000 * number,
            correlation_id="correlation",
            causation_id="cause",
            writer="UWRITER",
            event=event,
        )
        for number, event in enumerate(events, 1)
    ]
    return fold(history, Batch(KEYS, complete=True))


def row(batch: Batch, table: str, *key: Any) -> dict[str, Any]:
    return batch.rows(table)[key]


def test_a_pool_serves_its_old_epoch_until_the_new_one_is_ready() -> None:
    first = (pool.Shard(A, HASH, 0, 8, 10_000),)
    second = (pool.Shard(A, HASH, 0, 4, 5_000), pool.Shard(B, HASH, 4, 8, 5_000))
    events = (
        PROPOSED,
        pool.MemberAccepted(A, "signed"),
        pool.Planned(1, first, "all on A"),
        pool.ShardReady(1, A, 100),
        pool.Activated(1),
        pool.Planned(2, second, "halves"),
        pool.ShardFailed(2, B, "out_of_memory"),
    )
    rows = given("pool", *events)
    assert row(rows, "pools", B)["serving_epoch"] == 1
    assert row(rows, "pools", B)["planned_epoch"] == 2
    assert row(rows, "pool_shards", B, 1, A)["state"] == "ready"
    assert row(rows, "pool_shards", B, 2, A)["state"] == "loading"
    assert row(rows, "pool_shards", B, 2, B)["error_code"] == "out_of_memory"
    assert row(rows, "pool_members", B, A)["accepted_unix_ms"] == 2000

    rows = given("pool", *events, pool.ShardReady(2, B, 50), pool.ShardReady(2, A, 50), pool.EpochChanged(2))
    assert row(rows, "pools", B)["serving_epoch"] == 2
    assert row(rows, "pool_shards", B, 2, B)["state"] == "ready"
    assert row(rows, "pool_shards", B, 2, B)["error_code"] is None
    assert row(rows, "pool_shards", B, 2, B)["ring_index"] == 1


def test_a_pool_shows_which_contract_pays_the_operators_of_which_plan() -> None:
    shards = (pool.Shard(A, HASH, 0, 8, 10_000),)
    opened = pool.CoalitionOpened("0x" + "c0" * 20, 31337, 1, 4, "0x" + "1a" * 20, ref(7))
    planned = (
        PROPOSED,
        pool.MemberAccepted(A, "signed"),
        pool.Planned(1, shards, ""),
        pool.ShardReady(1, A, 1),
    )
    for events in ((*planned, pool.Activated(1), opened), (*planned, opened, pool.Activated(1))):
        found = row(given("pool", *events), "pools", B)
        assert (found["coalition"], found["gda_pool"]) == (opened.coalition, opened.gda_pool)
        assert (found["paid_epoch"], found["chain_epoch"], found["serving_epoch"]) == (1, 4, 1)
    assert row(given("pool", *planned), "pools", B)["coalition"] is None


def test_a_pool_shows_that_its_coalition_has_ended_its_epoch_and_pays_nobody() -> None:
    opened = pool.CoalitionOpened("0x" + "c0" * 20, 31337, 1, 4, "0x" + "1a" * 20, ref(7))
    ended = pool.CoalitionEnded(opened.coalition, 4, ref(8))
    reverted = pool.CoalitionEndReverted(opened.coalition, 4, 1, opened.gda_pool, ended.at)
    again = msgspec.structs.replace(opened, epoch=2, chain_epoch=5, gda_pool="0x" + "2b" * 20)

    def shown(*events: pool.PoolEvent) -> tuple[object, ...]:
        found = row(given("pool", PROPOSED, opened, *events), "pools", B)
        assert found["coalition"] == opened.coalition
        return found["gda_pool"], found["paid_epoch"], found["chain_epoch"]

    assert shown(ended) == (None, None, 4)
    assert shown(ended, reverted) == (opened.gda_pool, 1, 4)
    assert shown(ended, again) == (again.gda_pool, 2, 5)


def test_a_pool_shows_a_blocked_drain_until_the_next_plan_and_who_has_left() -> None:
    plan = pool.Planned(1, (pool.Shard(A, HASH, 0, 8, 10_000),), "all on A")
    begun = (PROPOSED, pool.MemberAccepted(A, "signed"), plan, pool.ShardReady(1, A, 1), pool.Activated(1))
    blocked = pool.DrainBlocked(A, "no_successor", "nobody")
    rows = given("pool", *begun, blocked)
    assert row(rows, "pools", B)["drain_blocked"] == f"{A}: no_successor: nobody"
    later = pool.Planned(2, (pool.Shard(B, HASH, 0, 8, 10_000),), "B succeeds")
    ready = (pool.ShardReady(2, B, 1), pool.EpochChanged(2), pool.ShardReplaced(1, A, B, 0, 0))
    rows = given("pool", *begun, blocked, later, *ready)
    assert row(rows, "pools", B)["drain_blocked"] is None
    assert row(rows, "pool_shards", B, 1, A)["state"] == "replaced"


def test_a_session_counts_what_its_requests_used() -> None:
    other = session.RequestStarted(A, 1, A, "43", HASH, 7, 16, 9_000)
    rows = given(
        "session",
        OPENED,
        STARTED,
        other,
        session.GenerationEnded(REQUEST, "stop", 5, 11, HASH),
        session.GenerationEnded(A, "error", 7, 0, None, "shard_lost"),
        session.Settled(2, "123456789012345678901234567890", "0"),
    )
    whole = row(rows, "sessions", B)
    assert (whole["requests"], whole["running"]) == (2, 0)
    assert (whole["prompt_tokens"], whole["completion_tokens"]) == (12, 11)
    assert (whole["status"], whole["closed_unix_ms"]) == ("settled", 6000)
    assert whole["paid_wei"] == "123456789012345678901234567890"
    assert row(rows, "requests", B, A)["error_code"] == "shard_lost"
    assert row(rows, "requests", B, REQUEST)["started_unix_ms"] == 2000
    assert row(rows, "requests", B, REQUEST)["ended_unix_ms"] == 4000
    assert whole["position"] == 6 * 1024


def test_a_moved_request_shows_its_new_ring_and_what_moved() -> None:
    moved = moves.KvMoved(REQUEST, 2, A, B, 33, 12_289, 9)
    rows = given("session", OPENED, STARTED, moved, moves.RequestResumed(REQUEST, 2, B, 28))
    request = row(rows, "requests", B, REQUEST)
    assert (request["epoch"], request["entry_node_id"], request["status"]) == (2, B, "running")
    move = row(rows, "kv_moves", B, REQUEST, 2, A)
    assert (move["to_node_id"], move["tokens"], move["kv_bytes"], move["move_ms"]) == (B, 33, 12_289, 9)
    assert move["moved_unix_ms"] == 3000


def test_a_running_request_is_shown_as_such() -> None:
    rows = given("session", OPENED, STARTED)
    assert row(rows, "sessions", B)["running"] == 1
    request = row(rows, "requests", B, REQUEST)
    assert (request["status"], request["finish_reason"], request["ended_unix_ms"]) == ("running", None, None)


def test_an_expired_session_is_closed_without_amounts() -> None:
    rows = given("session", OPENED, session.Expired(11_000))
    assert row(rows, "sessions", B)["status"] == "expired"
    assert row(rows, "sessions", B)["paid_wei"] is None


def test_a_node_is_lost_recovers_drains_and_retires() -> None:
    history: tuple[Event, ...] = (
        REGISTERED,
        node.CapabilitiesMeasured(8 * 2**30, 123.5, "cpu", "0.1.0"),
        node.Lost(1),
        node.Recovered(2),
        node.Drained("moving house"),
        node.Retired("sold"),
    )
    days = [row(given("node", *history[:count]), "nodes", B) for count in range(2, 7)]
    told = [(day["reachable"], day["draining"], day["retired"]) for day in days]
    assert told == [
        (True, False, False),
        (False, False, False),
        (True, False, False),
        (True, True, False),
        (True, True, True),
    ]
    whole = row(given("node", *history), "nodes", B)
    assert (whole["matmul_gflops"], whole["reason"]) == (123.5, "sold")


def test_every_event_is_listed_by_its_position() -> None:
    rows = given("session", OPENED, STARTED)
    assert [(key, listed["type"]) for key, listed in rows.rows("events").items()] == [
        ((1024,), "session.opened.v1"),
        ((2048,), "session.request_started.v1"),
    ]


def test_text_and_numbers_that_postgresql_cannot_hold_are_changed_to_some_that_it_can() -> None:
    rows = given("node", REGISTERED, node.CapabilitiesMeasured(2**80, 1.0, "c\x00pu", "0"))
    assert row(rows, "nodes", B)["device"] == "c\ufffdpu"
    assert row(rows, "nodes", B)["memory_bytes"] == 2**63 - 1


@pytest.mark.parametrize("events", [(STARTED,), (OPENED, OPENED), (OPENED, STARTED, STARTED)])
def test_a_history_that_no_decider_allows_is_refused(events: tuple[Event, ...]) -> None:
    with pytest.raises(ProjectionBroken):
        given("session", *events)
