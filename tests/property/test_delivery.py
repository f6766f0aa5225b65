"""Rings over a simulated mesh that loses, repeats, reorders and damages frames: each step once, in order."""

import heapq
import json
import random
from collections import defaultdict
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from shard_runtime.arrivals import END, FAIL, OPEN, Arrived, Confirmed, Event, Refused
from shard_runtime.delivery import STRANGER_TTL_NS, Delivery
from shard_runtime.evidence import INPUTS, REQUESTS
from shard_runtime.frames import PART_BYTES, VERSION, Header, Kind, decode, digest_of, encode
from shard_runtime.messages import PlanMember
from shard_runtime.plan import Plan
from shard_runtime.signing import ReceiptKey, signer_of, statement
from shard_runtime.window import CREDITS

MS = 1_000_000


KEYS = [ReceiptKey(bytes([i + 1]) * 32) for i in range(4)]


def plan(stages: int, me: int, epoch: int = 1) -> Plan:
    members = tuple(
        PlanMember(f"n{i}", f"{i + 1:02x}" * 32, KEYS[i].address, i, i + 1) for i in range(stages)
    )
    return Plan("pool", epoch, members, me)


def delivery_of(stages: int, me: int, clock: Callable[[], int] = lambda: 0) -> Delivery:
    return Delivery(plan(stages, me), clock, KEYS[me])


class Ring:
    """N deliveries, a bad mesh between them, and stages that 'compute' by noting (step, payload)."""

    def __init__(self, stages: int, seed: int, loss: float, repeat: float, spread_ms: int, harm: float = 0.0):
        self.now = 0
        self.random = random.Random(seed)
        self.loss, self.repeat, self.spread_ms, self.harm = loss, repeat, spread_ms, harm
        self.stages = [delivery_of(stages, me, lambda: self.now) for me in range(stages)]
        self.air: list[tuple[int, int, int, int, bytes]] = []
        self.carried = 0
        self.computed: dict[tuple[int, str], list[tuple[int, bytes]]] = defaultdict(list)
        self.tokens: dict[str, list[bytes]] = defaultdict(list)
        self.goal: dict[str, list[tuple[int, bytes]]] = {}
        self.ended: set[tuple[int, str]] = set()

    def begin(self, rid: str, steps: list[tuple[int, bytes]]) -> None:
        """`steps`: (token count, payload) of each step to go round the ring."""
        self.goal[rid] = steps
        self.stages[0].open(rid, self.now)
        for stage in range(1, len(self.stages)):
            self.stages[0].send("control", stage, rid, OPEN, 0, "json", (2,), b"{}", self.now)
        self._step(rid)

    def _step(self, rid: str) -> None:
        done = len(self.tokens[rid])
        n, payload = self.goal[rid][done]
        step = sum(count for count, _ in self.goal[rid][:done])
        self.computed[(0, rid)].append((step, payload))
        self.stages[0].send("hidden", 1, rid, step, n, "json", (len(payload),), payload, self.now)

    def _heard(self, me: int, event: Event) -> None:
        here = self.stages[me]
        if isinstance(event, Arrived) and event.kind == "control":
            here.confirm(event.sender, event.rid, event.step, b"ok")
            if event.step == OPEN:
                for early in here.open(event.rid, self.now):
                    self._heard(me, early)
            else:
                here.close(event.rid)
                self.ended.add((me, event.rid))
        elif isinstance(event, Arrived) and me == 0:
            self.tokens[event.rid].append(bytes(event.payload))
            if len(self.tokens[event.rid]) < len(self.goal[event.rid]):
                self._step(event.rid)
            else:
                here.close(event.rid)
                for stage in range(1, len(self.stages)):
                    here.send("control", stage, event.rid, END, 0, "json", (2,), b"{}", self.now)
        elif isinstance(event, Arrived):
            self.computed[(me, event.rid)].append((event.step, bytes(event.payload)))
            kind: Kind = "token" if here.plan.is_exit else "hidden"
            result = bytes(event.payload)
            shape, to = (len(result),), here.plan.downstream
            here.send(kind, to, event.rid, event.step, event.n, "json", shape, result, self.now)
        elif isinstance(event, Refused):
            raise AssertionError(f"stage {event.sender} refused {event.rid}: {event.reason}")

    def _carry(self) -> None:
        for me, stage in enumerate(self.stages):
            while stage.outgoing:
                to, raw = stage.outgoing.popleft()
                self.carried += 1
                for _ in range(1 + (self.random.random() < self.repeat)):
                    if self.random.random() >= self.loss:
                        delay = MS + self.random.randint(0, self.spread_ms) * MS
                        heapq.heappush(self.air, (self.now + delay, self.random.getrandbits(40), me, to, raw))

    def run(self, limit_ms: int = 600_000) -> None:
        while len(self.ended) < len(self.goal) * (len(self.stages) - 1) or not self.stages[0].quiet:
            self._carry()
            self.now += 5 * MS
            while self.air and self.air[0][0] <= self.now:
                _, _, sender, to, raw = heapq.heappop(self.air)
                if self.random.random() < self.harm:  # the last byte: the payload's, else the header's brace
                    raw = raw[:-1] + bytes([raw[-1] ^ 1])
                key = self.stages[sender].plan.my_key
                for event in self.stages[to].receive(raw, key, self.now):
                    self._heard(to, event)
            for stage in self.stages:
                stage.tick(self.now)
            assert self.now < limit_ms * MS, "the ring stands still"

    def check(self) -> None:
        for rid, steps in self.goal.items():
            starts = [sum(n for n, _ in steps[:i]) for i in range(len(steps))]
            expected = list(zip(starts, [payload for _, payload in steps], strict=True))
            for stage in range(len(self.stages)):
                assert self.computed[(stage, rid)] == expected
            assert self.tokens[rid] == [payload for _, payload in steps]


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
    ring = Ring(stages, seed, loss, repeat, spread_ms)
    for number, steps in enumerate(requests):
        ring.begin(f"r{number}", steps)
    ring.run()
    ring.check()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1 << 32), requests=st.lists(STEPS, min_size=1, max_size=3))
def test_damaged_frames_are_dropped_and_repeated(seed: int, requests: list[list[tuple[int, bytes]]]) -> None:
    ring = Ring(2, seed, 0.05, 0.0, 5, harm=0.2)
    for number, steps in enumerate(requests):
        ring.begin(f"r{number}", steps)
    ring.run()
    ring.check()


def test_a_clean_mesh_costs_no_acknowledgement_per_token() -> None:
    ring = Ring(3, 1, 0, 0, 0)
    tokens = 50
    ring.begin("r", [(1, b"x")] * tokens)
    ring.run()
    ring.check()
    per_request = 2 * 2 * 2  # open and end, to two stages, each acknowledged
    assert ring.carried == 3 * tokens + per_request


def test_tensors_of_many_parts_arrive_whole_over_a_bad_mesh() -> None:
    ring = Ring(2, 7, 0.2, 0.2, 50)
    big = random.Random(3).randbytes(PART_BYTES) * 2 + b"tail"
    ring.begin("r", [(9, big), (1, b"x")])
    ring.run()
    ring.check()


def test_more_requests_than_credits_all_finish_without_waiting_for_timers() -> None:
    ring = Ring(2, 5, 0, 0, 0)
    for number in range(3 * CREDITS):
        ring.begin(f"r{number}", [(1, b"x")] * 4)
    ring.run(limit_ms=900)
    ring.check()
    assert ring.stages[0].count["retransmitted"] == 0


def hidden(
    step: int, *, stages: int = 2, epoch: int = 1, sender: int = 0, to: int = 1, **changes: object
) -> bytes:
    keys = plan(stages, 0)
    payload = b"x"
    fields: dict[str, object] = {
        "v": VERSION, "kind": "hidden", "pool": "pool", "epoch": epoch, "rid": "r", "step": step,
        "n": 1, "attempt": 0, "from_": keys.key(sender), "to": keys.key(to), "dtype": "json", "shape": (1,),
        "part": 0, "parts": 1, "digest": digest_of(payload), "sent_ns": 0, "credit": 32,
    }  # fmt: skip
    header = Header(**(fields | changes))  # type: ignore[arg-type]
    if not header.sig:
        header = replace(header, sig=KEYS[sender].sign(statement(header)))
    return encode(header, payload)


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
    assert [answer.header.kind for answer in answers] == ["ack", "token"]
    assert bytes(answers[1].payload) == b"12345678"
    assert delivery.count["duplicate"] == 1


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
    [(_, raw)] = entry.outgoing
    [event] = exit_.receive(raw, "01" * 32, 0)
    assert isinstance(event, Arrived)
    exit_.close("r")
    exit_.confirm(0, "r", event.step, b'{"ms":1}')
    exit_.receive(raw, "01" * 32, 0)
    first, second = [raw for _, raw in exit_.outgoing]
    assert entry.receive(first, "02" * 32, 0) == [Confirmed(1, "r", END, b'{"ms":1}')]
    assert entry.receive(second, "02" * 32, 0) == []
    assert (exit_.count["duplicate"], entry.count["late_ack"]) == (1, 1)


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
