"""Rings over a simulated mesh that loses, repeats, reorders and damages frames: each step once, in order."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from shard_runtime.arrivals import END, FAIL, Arrived, Confirmed, Refused
from shard_runtime.delivery import STRANGER_TTL_NS
from shard_runtime.evidence import INPUTS, REQUESTS
from shard_runtime.frames import PART_BYTES, decode, encode
from shard_runtime.outbox import FIRST_RTO_NS, PATIENT
from shard_runtime.signing import signer_of, statement
from shard_runtime.window import CREDITS
from tests.simulated_ring import KEYS, MS, SimulatedRing, delivery_of, hidden

STEPS = st.lists(st.tuples(st.integers(1, 5), st.binary(max_size=12)), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(
    stages=st.integers(2, 4),
    seed=st.integers(0, 1 << 32),
    loss=st.sampled_from([0.0, 0.1, 0.3]),
    repeat=st.sampled_from([0.0, 0.3]),
    spread_ms=st.sampled_from([0, 30, 400]),
    requests=st.lists(STEPS, min_size=1, max_size=5),
)
def test_every_step_is_computed_once_and_in_order(
    stages: int,
    seed: int,
    loss: float,
    repeat: float,
    spread_ms: int,
    requests: list[list[tuple[int, bytes]]],
) -> None:
    ring = SimulatedRing(stages, seed, loss, repeat, spread_ms)
    for number, steps in enumerate(requests):
        ring.begin(f"r{number}", steps)
    ring.run()
    ring.check()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1 << 32), requests=st.lists(STEPS, min_size=1, max_size=3))
def test_damaged_frames_are_dropped_and_repeated(seed: int, requests: list[list[tuple[int, bytes]]]) -> None:
    ring = SimulatedRing(2, seed, 0.05, 0.0, 5, harm=0.2)
    for number, steps in enumerate(requests):
        ring.begin(f"r{number}", steps)
    ring.run()
    ring.check()


def test_a_clean_mesh_costs_no_acknowledgement_per_token() -> None:
    ring = SimulatedRing(3, 1, 0, 0, 0)
    tokens = 50
    ring.begin("r", [(1, b"x")] * tokens)
    ring.run()
    ring.check()
    per_request = 2 * 2 * 2  # open and end, to two stages, each acknowledged
    assert ring.carried == 3 * tokens + per_request


@pytest.mark.parametrize("stages", [2, 3])
def test_a_lossy_repeating_reordering_mesh_costs_at_most_half_again_as_many_frames(stages: int) -> None:
    """20 % of sendings are lost, 20 % are doubled, each takes up to 30 ms longer than another."""

    def frames(loss: float, repeat: float, spread_ms: int) -> int:
        carried = 0
        for seed in range(4):
            ring = SimulatedRing(stages, seed, loss, repeat, spread_ms)
            for number in range(10):
                ring.begin(f"r{number}", [(8, b"x")] + [(1, b"x")] * 23)
            ring.run()
            ring.check()
            carried += ring.carried
        return carried

    assert frames(0.2, 0.2, 30) <= 1.5 * frames(0.0, 0.0, 0)


def test_a_stalled_receiver_pauses_its_sender_and_all_arrives_once_it_goes_on() -> None:
    entry, exit_ = delivery_of(2, 0), delivery_of(2, 1)
    rids = [f"r{number}" for number in range(4 * CREDITS)]
    for rid in rids:
        entry.open(rid, 0)
        exit_.open(rid, 0)
        entry.send("hidden", 1, rid, 0, 1, "json", (1,), b"x", 0)
    sent = list(entry.outgoing)
    assert len(sent) == CREDITS
    for second in range(1, 31):
        entry.outgoing.clear()
        entry.tick(second * 1000 * MS)
        assert len(entry.outgoing) <= CREDITS  # what is on the way, again; nothing new
    asked = {decode(raw).header.rid for _, raw in [*sent, *entry.outgoing]}
    assert asked == set(rids[:CREDITS])
    arrived: list[str] = []
    while entry.outgoing:
        raw = entry.outgoing.popleft()[1]
        arrived += [event.rid for event in exit_.receive(raw, "01" * 32, 31_000 * MS)]
        for rid in arrived[len(arrived) - 1 :]:
            exit_.send("token", 0, rid, 0, 1, "json", (1,), b"y", 31_000 * MS)
        while exit_.outgoing:
            entry.receive(exit_.outgoing.popleft()[1], "02" * 32, 31_000 * MS)
    assert sorted(arrived) == sorted(rids)
    assert entry.quiet


def test_tensors_of_many_parts_arrive_whole_over_a_bad_mesh() -> None:
    ring = SimulatedRing(2, 7, 0.2, 0.2, 50)
    big = random.Random(3).randbytes(PART_BYTES) * 2 + b"tail"
    ring.begin("r", [(9, big), (1, b"x")])
    ring.run()
    ring.check()


def test_more_requests_than_credits_all_finish_without_waiting_for_timers() -> None:
    ring = SimulatedRing(2, 5, 0, 0, 0)
    for number in range(3 * CREDITS):
        ring.begin(f"r{number}", [(1, b"x")] * 4)
    ring.run(limit_ms=900)
    ring.check()
    assert ring.stages[0].count["retransmitted"] == 0


@pytest.mark.parametrize(
    ("raw", "mesh_sender", "reason"),
    [
        (hidden(0), "02" * 32, "wrong_sender"),
        (hidden(0), "", "wrong_sender"),
        (hidden(0), ("01" * 12) + "f" * 40, "wrong_sender"),
        (hidden(0, from_="ab" * 32), "ab" * 32, "not_a_member"),
        (hidden(0, from_="02" * 32), "02" * 32, "not_a_member"),
        (hidden(0, epoch=0), "01" * 32, "old_epoch"),
        (hidden(0, epoch=2), "01" * 32, "unknown_epoch"),
        (hidden(0, pool="other"), "01" * 32, "misdirected"),
        (hidden(0, to=0), "01" * 32, "misdirected"),
        (hidden(0, kind="token"), "01" * 32, "wrong_stage"),
        (hidden(0, n=0), "01" * 32, "wrong_stage"),
        (hidden(0, kind="control"), "01" * 32, "wrong_stage"),
        (hidden(0, sig="00" * 65), "01" * 32, "bad_signature"),
        (hidden(0, sig="ff" * 65), "01" * 32, "bad_signature"),
        (hidden(0, sig=KEYS[1].sign(b"anything")), "01" * 32, "bad_signature"),
        (b"noise", "01" * 32, "header_too_long"),
    ],
)
def test_what_does_not_belong_is_dropped_and_counted(raw: bytes, mesh_sender: str, reason: str) -> None:
    delivery = delivery_of(2, 1)
    delivery.open("r", 0)
    assert delivery.receive(raw, mesh_sender, 0) == []
    assert delivery.count[reason] == 1
    assert not delivery.outgoing


def test_a_truncated_sender_of_a_stock_node_is_enough() -> None:
    delivery = delivery_of(2, 1)
    delivery.open("r", 0)
    [event] = delivery.receive(hidden(0), "01" * 13 + "f" * 38, 0)
    assert isinstance(event, Arrived)


def test_hidden_states_come_only_from_the_stage_before() -> None:
    delivery = delivery_of(3, 2)
    delivery.open("r", 0)
    assert delivery.receive(hidden(0, stages=3, sender=0, to=2), "01" * 32, 0) == []
    assert delivery.count["wrong_stage"] == 1


def test_a_repeated_step_is_answered_from_the_stored_result() -> None:
    delivery = delivery_of(2, 1)
    delivery.open("r", 0)
    [event] = delivery.receive(hidden(0), "01" * 32, 0)
    assert isinstance(event, Arrived)
    delivery.send("token", 0, "r", event.step, 1, "int64", (1,), b"12345678", 0)
    delivery.outgoing.clear()
    assert delivery.receive(hidden(0, attempt=1), "01" * 32, 50 * MS) == []
    answers = [decode(raw) for _, raw in delivery.outgoing]
    assert [answer.header.kind for answer in answers] == ["token"]
    assert bytes(answers[0].payload) == b"12345678"
    assert delivery.count["duplicate"] == 1


def test_a_copy_that_the_mesh_made_is_not_answered() -> None:
    delivery = delivery_of(2, 1)
    delivery.open("r", 0)
    assert delivery.receive(hidden(0), "01" * 32, 0)
    delivery.send("token", 0, "r", 0, 1, "int64", (1,), b"12345678", 0)
    delivery.outgoing.clear()
    assert delivery.receive(hidden(0), "01" * 32, 50 * MS) == []
    assert not delivery.outgoing
    assert delivery.count["duplicate"] == 1


def test_who_is_asked_before_the_result_is_there_says_so_and_asks_on_from_there() -> None:
    delivery = delivery_of(2, 1)
    delivery.open("r", 0)
    assert delivery.receive(hidden(0), "01" * 32, 0)
    assert delivery.receive(hidden(0, attempt=1), "01" * 32, 50 * MS) == []
    assert [decode(raw).header.kind for _, raw in delivery.outgoing] == ["ack"]
    delivery.send("token", 0, "r", 0, 1, "int64", (1,), b"12345678", 60 * MS)
    delivery.outgoing.clear()
    delivery.tick(60 * MS + FIRST_RTO_NS)
    assert [decode(raw).header.kind for _, raw in delivery.outgoing] == ["token"]


def test_who_was_not_asked_is_patient() -> None:
    delivery = delivery_of(2, 1)
    delivery.open("r", 0)
    assert delivery.receive(hidden(0), "01" * 32, 0)
    delivery.send("token", 0, "r", 0, 1, "int64", (1,), b"12345678", 0)
    delivery.outgoing.clear()
    delivery.tick(PATIENT * FIRST_RTO_NS - 1)
    assert not delivery.outgoing
    delivery.tick(PATIENT * FIRST_RTO_NS)
    assert [decode(raw).header.kind for _, raw in delivery.outgoing] == ["token"]


def test_an_unknown_version_is_refused_by_name() -> None:
    delivery = delivery_of(2, 1)
    raw = hidden(0).replace(b'"v":1', b'"v":9')
    assert delivery.receive(raw, "01" * 32, 0) == []
    [(to, answer)] = delivery.outgoing
    assert to == 0
    assert decode(answer).header.kind == "nack"
    assert json.loads(bytes(decode(answer).payload)) == {"reason": "unknown_version", "speaks": [1]}


def test_a_request_nobody_opened_is_refused_after_a_while() -> None:
    delivery = delivery_of(2, 1)
    delivery.receive(hidden(0), "01" * 32, 0)
    delivery.tick(STRANGER_TTL_NS + 1)
    [(_, answer)] = delivery.outgoing
    entry = delivery_of(2, 0)
    assert entry.receive(answer, "02" * 32, 0) == [Refused(1, "r", "unknown_request")]
    assert delivery.quiet


def test_control_frames_are_confirmed_with_words_and_repeats_hear_the_same() -> None:
    entry, exit_ = delivery_of(2, 0), delivery_of(2, 1)
    entry.send("control", 1, "r", END, 0, "json", (2,), b"{}", 0)
    entry.tick(1000 * MS)
    [raw, again] = [raw for _, raw in entry.outgoing]
    [event] = exit_.receive(raw, "01" * 32, 0)
    assert isinstance(event, Arrived)
    exit_.close("r")
    exit_.confirm(0, "r", event.step, b'{"ms":1}')
    assert exit_.receive(raw, "01" * 32, 0) == []  # a copy that the mesh made
    exit_.receive(again, "01" * 32, 0)
    first, second = [raw for _, raw in exit_.outgoing]
    assert entry.receive(first, "02" * 32, 0) == [Confirmed(1, "r", END, b'{"ms":1}')]
    assert entry.receive(second, "02" * 32, 0) == []
    assert (exit_.count["duplicate"], entry.count["late_ack"]) == (2, 1)


def test_a_stage_may_tell_the_entry_that_it_fails_and_nothing_else() -> None:
    entry, exit_ = delivery_of(2, 0), delivery_of(2, 1)
    exit_.send("control", 0, "r", FAIL, 0, "json", (2,), b"{}", 0)
    exit_.send("control", 0, "r", END, 0, "json", (2,), b"{}", 0)
    events = [event for _, raw in exit_.outgoing for event in entry.receive(raw, "02" * 32, 0)]
    assert [event.step for event in events if isinstance(event, Arrived)] == [FAIL]


def test_an_ended_request_stays_ended() -> None:
    delivery = delivery_of(2, 1)
    delivery.open("r", 0)
    delivery.close("r")
    assert delivery.receive(hidden(0), "01" * 32, 0) == []
    assert delivery.open("r", 0) == []
    assert delivery.count["ended"] == 1
    assert delivery.quiet


@pytest.mark.parametrize(
    "changes",
    [
        {"step": 1}, {"n": 2}, {"rid": "other"}, {"epoch": 2}, {"pool": "other"}, {"kind": "token"},
        {"shape": (1, 1)}, {"dtype": "int64", "shape": (0,)}, {"part": 1, "parts": 2}, {"from_": "09" * 32},
        {"to": "09" * 32}, {"digest": "00" * 16},
    ],
)  # fmt: skip
def test_a_signature_covers_all_that_a_frame_means(changes: dict[str, object]) -> None:
    header = decode(hidden(0)).header
    assert signer_of(statement(header), header.sig) == KEYS[0].address
    assert signer_of(statement(replace(header, **changes)), header.sig) != KEYS[0].address


def test_a_repetition_carries_the_same_signature() -> None:
    entry = delivery_of(2, 0)
    entry.send("hidden", 1, "r", 0, 1, "json", (1,), b"x", 0)
    entry.tick(10_000 * MS)
    first, second = [decode(raw).header for _, raw in entry.outgoing]
    assert (first.attempt, second.attempt) == (0, 1)
    assert first.sig == second.sig


def test_an_unsigned_frame_is_dropped_and_counted() -> None:
    exit_ = delivery_of(2, 1)
    exit_.open("r", 0)
    header = decode(hidden(0)).header
    raw = encode(replace(header, sig=""), b"x")
    assert exit_.receive(raw, "01" * 32, 0) == []
    assert exit_.count == {"bad_signature": 1}
    assert not exit_.outgoing


def test_what_was_computed_on_stays_attributable() -> None:
    exit_ = delivery_of(2, 1)
    exit_.open("r", 0)
    for step in range(INPUTS + 5):
        assert exit_.receive(hidden(step), "01" * 32, 0)
    exit_.close("r")
    kept = exit_.evidence.of("r")
    assert [item.said for item in kept] == [
        statement(decode(hidden(step)).header) for step in range(5, INPUTS + 5)
    ]
    assert {signer_of(item.said, item.signature) for item in kept} == {KEYS[0].address}


def test_evidence_is_bounded() -> None:
    exit_ = delivery_of(2, 1)
    for number in range(REQUESTS + 3):
        exit_.open(f"r{number}", 0)
        assert exit_.receive(hidden(0, rid=f"r{number}"), "01" * 32, 0)
    assert [len(exit_.evidence.of(f"r{number}")) for number in (0, 2, 3, REQUESTS + 2)] == [0, 0, 1, 1]
