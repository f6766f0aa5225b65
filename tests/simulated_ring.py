"""Rings of the delivery protocol alone, over a simulated mesh and clock, and single frames for them."""

import heapq
import random
from collections import defaultdict
from collections.abc import Callable

from msgspec.structs import replace

from shard_runtime.arrivals import END, OPEN, Arrived, Event, Refused
from shard_runtime.delivery import Delivery
from shard_runtime.frames import VERSION, Header, Kind, digest_of, encode
from shard_runtime.messages import PlanMember
from shard_runtime.plan import Plan
from shard_runtime.signing import ReceiptKey, statement

MS = 1_000_000


KEYS = [ReceiptKey(bytes([i + 1]) * 32) for i in range(4)]


def plan(stages: int, me: int, epoch: int = 1) -> Plan:
    members = tuple(
        PlanMember(f"n{i}", f"{i + 1:02x}" * 32, KEYS[i].address, i, i + 1) for i in range(stages)
    )
    return Plan("pool", epoch, members, me)


def delivery_of(stages: int, me: int, clock: Callable[[], int] = lambda: 0) -> Delivery:
    return Delivery(plan(stages, me), clock, KEYS[me])


class SimulatedRing:
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
