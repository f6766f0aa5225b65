"""A request between two rings: parked at a token boundary in the old, resumed where its KV ends in the new.

Knows nothing of how KV travels or of text. In the old ring the entry asks every stage to park; each says
whether the request's KV is safe for the new ring (it stays on this node, or the successor has confirmed all
of it). Only if all say so has the request moved; else it goes on where it was. In the new ring the entry asks
every stage how many tokens it holds, and nothing is computed before all have said: exactly those, or none.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import structlog
import torch

from shard_runtime.arrivals import END, GO, OPEN, PARK, Arrived, Confirmed
from shard_runtime.kv import KvSlot
from shard_runtime.messages import Sampling
from shard_runtime.receipts import Terms

if TYPE_CHECKING:
    from shard_runtime.stage import Stage

PATIENCE_NS = 60_000_000_000
"""How long the entry waits until every stage has said what became of a parked request."""
HOLD_NS = 90_000_000_000
"""How long a stage keeps the KV of a parked request that nobody claims."""

log = structlog.get_logger()


class Opening(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """With OPEN. `held`: tokens of it that every stage should hold already; `terms`: when it is paid."""

    sampling: Sampling
    held: int = 0
    terms: Terms | None = None


class Parking(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """With PARK: a request that is to go on at `to_epoch`, of which every stage holds `held` tokens."""

    session_id: str
    held: int
    to_epoch: int


class Parked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A stage's answer to PARK. `stays`: this node keeps the KV and is itself in the new ring."""

    moved: bool
    stays: bool = False


class _Held(msgspec.Struct, frozen=True):
    held: int = 0


Kept = Callable[[], KvSlot | None]
"""The KV of a parked request, asked for again after every wait: once the request is over here, its memory is
the next one's.
"""


@dataclass(frozen=True)
class Elsewhere:
    """What a stage can ask of the other rings on its node, and of the way to other nodes."""

    claim: Callable[[str], bool]
    """Make an older holder of this request's KV on this node let go of it; whether there was one."""
    park: Callable[[str, Kept, Parking], Awaitable[Parked]]
    """Make the KV safe for the new ring."""
    drop: Callable[[str], None]
    """KV that is on its way, or has gone already, is not needed."""


async def _nowhere(rid: str, kept: Kept, parking: Parking) -> Parked:
    return Parked(moved=False)


ALONE = Elsewhere(lambda rid: False, _nowhere, lambda rid: None)


@dataclass
class _Standing:
    """A parked request. At the entry: what the stages have said, and whom to tell when all have."""

    since_ns: int
    answers: dict[int, Parked] = field(default_factory=dict)
    then: Callable[[bool], None] | None = None
    settled: bool = False
    """Nothing more is under way here: from `since_ns` on it is only held."""


@dataclass
class _Resuming:
    ids: tuple[int, ...]
    held: dict[int, int] = field(default_factory=dict)


class Handover:
    """Of one stage. All methods run on the event loop."""

    def __init__(self, stage: "Stage", elsewhere: Elsewhere) -> None:
        self._stage, self._elsewhere = stage, elsewhere
        self._standing: dict[str, _Standing] = {}
        self._resuming: dict[str, _Resuming] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # The old ring

    def park(self, rid: str, parking: Parking, then: Callable[[bool], None]) -> None:
        """At the entry, with nothing of `rid` in flight. `then`: has it moved, or must it go on here?"""
        self._standing[rid] = _Standing(time.monotonic_ns(), then=then)
        for stage in self._stage.plan.others:
            self._stage.say(stage, rid, PARK, msgspec.json.encode(parking))
        me = self._stage.plan.me
        self._begin(rid, parking, lambda answer: self._answered(rid, me, answer))

    def asked_to_park(self, event: Arrived) -> None:
        """Raises msgspec.ValidationError, msgspec.DecodeError."""
        parking = msgspec.json.decode(event.payload, type=Parking)
        if event.rid in self._standing:
            return
        self._standing[event.rid] = _Standing(time.monotonic_ns())

        def tell(answer: Parked) -> None:
            self._stage.delivery.confirm(event.sender, event.rid, PARK, msgspec.json.encode(answer))

        self._begin(event.rid, parking, tell)

    def is_parked(self, rid: str) -> bool:
        return rid in self._standing

    def goes_on(self, rid: str) -> None:
        """A parked request did not move: its next step has come."""
        standing = self._standing.pop(rid, None)
        if standing is not None and not standing.settled:
            self._elsewhere.drop(rid)

    def forget(self, rid: str) -> None:
        self.goes_on(rid)
        self._resuming.pop(rid, None)

    def tick(self, now_ns: int) -> None:
        for rid, standing in list(self._standing.items()):
            waited_ns = now_ns - standing.since_ns
            if standing.settled and waited_ns > HOLD_NS:
                self._stage.delivery.count["unclaimed"] += 1
                self._stage.release(rid)
            elif not standing.settled and standing.then is not None and waited_ns > PATIENCE_NS:
                log.warning("handover_stands_still", request_id=rid)
                self._settle(rid, standing, moved=False)

    def _begin(self, rid: str, parking: Parking, then: Callable[[Parked], None]) -> None:
        standing = self._standing[rid]

        def kept() -> KvSlot | None:
            return self._stage.slot_of(rid) if self._standing.get(rid) is standing else None

        async def ask() -> None:
            slot, answer = kept(), Parked(moved=False)
            if slot is not None and slot.length == parking.held:
                answer = await self._elsewhere.park(rid, kept, parking)
            if self._standing.get(rid) is standing:
                standing.since_ns = time.monotonic_ns()
                standing.settled = standing.then is None
                then(answer)
                self._stage.flush()

        task = asyncio.get_running_loop().create_task(ask())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _answered(self, rid: str, stage: int, answer: Parked) -> None:
        standing = self._standing.get(rid)
        if standing is None or standing.settled or standing.then is None:
            return
        standing.answers[stage] = answer
        if len(standing.answers) == len(self._stage.plan.members):
            self._settle(rid, standing, moved=all(said.moved for said in standing.answers.values()))

    def _settle(self, rid: str, standing: _Standing, *, moved: bool) -> None:
        then, standing.settled, standing.since_ns = standing.then, True, time.monotonic_ns()
        assert then is not None
        if moved:
            for stage, answer in standing.answers.items():
                if stage != self._stage.plan.me and not answer.stays:
                    self._stage.say(stage, rid, END, b'{"moved":true}')
            if not standing.answers[self._stage.plan.me].stays:
                self._stage.release(rid)
        else:
            del self._standing[rid]
        then(moved)

    # The new ring

    def resume(self, rid: str, opening: Opening, ids: tuple[int, ...]) -> None:
        """At the entry: go on after `ids`, all but the last of which every stage should hold already."""
        resuming = self._resuming[rid] = _Resuming(ids)
        said = msgspec.json.encode(msgspec.structs.replace(opening, held=len(ids) - 1))
        for stage in self._stage.plan.others:
            self._stage.say(stage, rid, OPEN, said)
        me = self._stage.plan.me
        self._elsewhere.claim(rid)

        def opened(slot: KvSlot) -> None:
            self._holds(rid, resuming, me, slot.length)

        self._stage.open(rid, opening, opened)

    def asked_to_resume(self, event: Arrived, opening: Opening) -> None:
        if self._stage.knows(event.rid):
            return
        self._elsewhere.claim(event.rid)

        def opened(slot: KvSlot) -> None:
            held = msgspec.json.encode(_Held(slot.length))
            self._stage.delivery.confirm(event.sender, event.rid, OPEN, held)
            self._stage.flush()

        self._stage.open(event.rid, opening, opened)

    def told(self, event: Confirmed) -> None:
        """A stage confirmed OPEN or PARK."""
        try:
            if event.step == PARK:
                answer = msgspec.json.decode(event.payload, type=Parked)
                self._answered(event.rid, event.sender, answer)
            elif (resuming := self._resuming.get(event.rid)) is not None:
                held = msgspec.json.decode(event.payload or b"{}", type=_Held)
                self._holds(event.rid, resuming, event.sender, held.held)
        except (msgspec.ValidationError, msgspec.DecodeError):
            self._stage.delivery.count["bad_control"] += 1

    def go(self, event: Arrived) -> None:
        """Raises msgspec.ValidationError, msgspec.DecodeError."""
        at = msgspec.json.decode(event.payload, type=_Held).held
        self._stage.delivery.confirm(event.sender, event.rid, GO, b"")
        self._stage.go_on(event.rid, at)

    def _holds(self, rid: str, resuming: _Resuming, stage: int, tokens: int) -> None:
        if self._resuming.get(rid) is not resuming:
            return
        resuming.held[stage] = tokens
        if len(resuming.held) < len(self._stage.plan.members):
            return
        del self._resuming[rid]
        wanted = len(resuming.ids) - 1
        at = wanted if all(held == wanted for held in resuming.held.values()) else 0
        log.info("request_resumed", request_id=rid, tokens=wanted, held=sorted(resuming.held.values()), at=at)
        for other in self._stage.plan.others:
            self._stage.say(other, rid, GO, msgspec.json.encode(_Held(at)))
        self._stage.go_on(rid, at)
        rest = torch.tensor(resuming.ids[at:], dtype=torch.int64)
        self._stage.step(rid, at, len(rest), rest)
        self._stage.flush()
