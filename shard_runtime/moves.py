"""KV on its way from a leaver to its successor: a ring of two nodes, with a name of its own.

Knows nothing of why a request moves or of what becomes of it. Blocks of whole 16-token groups travel as `kv`
frames, each with its digest, acknowledged and repeated as every frame is; the leaver says how many tokens
there are, and the successor confirms the end only when it holds exactly those.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec
import structlog

from shard_runtime.arrivals import END, FAIL, OPEN, OVER, RING, Arrived, Confirmed, Event
from shard_runtime.compute import ComputeThread
from shard_runtime.delivery import Delivery
from shard_runtime.frames import PART_BYTES, Frame, WireDtype
from shard_runtime.handover import HOLD_NS
from shard_runtime.kv import KvPool, KvSlot
from shard_runtime.plan import Plan
from shard_runtime.signing import ReceiptKey

CREDITS = 8
"""Parts on their way at once: it is not only KV that the mesh carries."""
GROUP = 16
"""Tokens that travel together at least."""
STILL_NS = 5_000_000_000
"""A successor of which nothing was heard for so long gets no more: the request goes on where it was."""

SILENT_NS = 120_000_000_000
"""A leaver that says nothing for so long, not even that it is done, sends nothing more."""

Post = Callable[[str, bytes], None]

log = structlog.get_logger()


def wire_name(pool_id: str) -> str:
    """What stands as `pool` in the frames of a move."""
    return f"{pool_id}:kv"


def blocks(tokens: int, bytes_per_token: int) -> Iterator[tuple[int, int]]:
    """(first, count) of as many whole groups at a time as fit into one part of a frame, at least one."""
    each = max(1, PART_BYTES // (GROUP * bytes_per_token)) * GROUP
    for first in range(0, tokens, each):
        yield first, min(each, tokens - first)


class _Coming(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tokens: int


class _Holds(msgspec.Struct, frozen=True):
    held: int = 0


class Sending:
    """The leaver's end (stage 0 of the two)."""

    def __init__(
        self, plan: Plan, dtype: WireDtype, compute: ComputeThread, post: Post, receipt_key: ReceiptKey
    ) -> None:
        self.plan, self.delivery = plan, Delivery(plan, time.time_ns, receipt_key, CREDITS, "kv")
        self.moved_requests, self.moved_bytes = 0, 0
        self._dtype, self._compute, self._post = dtype, compute, post
        self._answers: dict[str, asyncio.Future[int]] = {}
        self._begun: set[str] = set()
        self._heard_ns = time.monotonic_ns()
        self._over = asyncio.Event()

    async def send(self, rid: str, slot: KvSlot, tokens: int) -> bool:
        """Whether the successor holds all `tokens` of the request now."""
        answer = self._answers[rid] = asyncio.get_running_loop().create_future()
        self._heard_ns = time.monotonic_ns()
        self._begun.add(rid)
        try:
            self._say(rid, OPEN, msgspec.json.encode(_Coming(tokens)))
            for first, count in blocks(tokens, slot.bytes_per_token):
                block = await self._compute.call(lambda first=first, count=count: slot.export(first, count))  # type: ignore[misc]
                if answer.done():
                    break
                shape, now_ns = slot.block_shape(count), time.monotonic_ns()
                self.delivery.send("kv", 1, rid, first, count, self._dtype, shape, block, now_ns)
                self._flush()
            self._say(rid, END, b"{}")
            held = await self._patiently(answer)
        finally:
            del self._answers[rid]
            self.delivery.close(rid)
        if held != tokens:
            log.warning("kv_not_moved", request_id=rid, tokens=tokens, held=held)
            self._say(rid, FAIL, b"{}")
            return False
        self.moved_requests += 1
        self.moved_bytes += tokens * slot.bytes_per_token
        return True

    def drop(self, rid: str) -> None:
        """The request is over: what has come of it there is not needed."""
        if rid not in self._begun:
            return
        self._begun.discard(rid)
        answer = self._answers.get(rid)
        if answer is not None and not answer.done():
            answer.set_result(0)  # `send` tells the successor
        else:
            self._say(rid, FAIL, b"{}")

    async def finish(self, within_s: float = 2.0) -> None:
        """Tell the successor that nothing more comes."""
        self._say(RING, OVER, b"{}")
        with suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), within_s)

    def take(self, frame: Frame, mesh_sender: str) -> None:
        heard = self.delivery.count["received"]
        for event in self.delivery.take(frame, mesh_sender, time.monotonic_ns()):
            if isinstance(event, Confirmed):
                self._confirmed(event)
        if self.delivery.count["received"] > heard:
            self._heard_ns = time.monotonic_ns()
        self._flush()

    def tick(self) -> None:
        self.delivery.tick(time.monotonic_ns())
        self._flush()

    def _confirmed(self, event: Confirmed) -> None:
        answer = self._answers.get(event.rid)
        if event.step == OVER:
            self._over.set()
        elif event.step == END and answer is not None and not answer.done():
            with suppress(msgspec.ValidationError, msgspec.DecodeError):
                answer.set_result(msgspec.json.decode(event.payload or b"{}", type=_Holds).held)

    async def _patiently(self, answer: asyncio.Future[int]) -> int:
        while not answer.done():
            await asyncio.wait({answer}, timeout=0.25)
            if time.monotonic_ns() - self._heard_ns > STILL_NS:
                return 0
        return answer.result()

    def _say(self, rid: str, step: int, said: bytes) -> None:
        self.delivery.send("control", 1, rid, step, 0, "json", (len(said),), said, time.monotonic_ns())
        self._flush()

    def _flush(self) -> None:
        _post_all(self.delivery, self._post)


@dataclass
class _Adopted:
    """One request's KV as it comes. `ended`: the leaver asked whether all of it is here."""

    tokens: int
    slot: KvSlot | None = None
    refused: bool = False
    ended: bool = False
    claimed: bool = False
    early: list[Arrived] = field(default_factory=list)
    touched_ns: int = field(default_factory=time.monotonic_ns)


class Adoption:
    """The successor's end (stage 1). A request's KV stays here until its stage in the new ring claims it.

    `is_over`: has the new ring ended this request already? Then nobody would ever claim what comes.
    """

    def __init__(
        self, plan: Plan, kv: KvPool, compute: ComputeThread, post: Post, receipt_key: ReceiptKey,
        is_over: Callable[[str], bool],
    ) -> None:  # fmt: skip
        self.plan, self.kv, self.delivery = plan, kv, Delivery(plan, time.time_ns, receipt_key, CREDITS, "kv")
        self.over = asyncio.Event()
        self._compute, self._post, self._is_over = compute, post, is_over
        self._adopted: dict[str, _Adopted] = {}
        self._heard_ns = time.monotonic_ns()

    @property
    def done(self) -> bool:
        """All that came has been claimed, and nothing more comes: the leaver said so, or is silent."""
        silent = time.monotonic_ns() - self._heard_ns > SILENT_NS
        return not self._adopted and (self.over.is_set() or silent)

    def let_go(self, rid: str) -> bool:
        """Leave the KV to whoever claims it; whether there was any."""
        adopted = self._adopted.pop(rid, None)
        if adopted is None:
            return False
        adopted.claimed = True
        self.delivery.close(rid)
        return True

    def take(self, frame: Frame, mesh_sender: str) -> None:
        self._heard_ns = time.monotonic_ns()
        for event in self.delivery.take(frame, mesh_sender, self._heard_ns):
            self._happened(event)
        self._flush()

    def tick(self) -> None:
        now_ns = time.monotonic_ns()
        self.delivery.tick(now_ns)
        for rid, adopted in list(self._adopted.items()):
            if now_ns - adopted.touched_ns > HOLD_NS:
                self.delivery.count["unclaimed"] += 1
                self._drop(rid)
        self._flush()

    def leave(self) -> None:
        for rid in list(self._adopted):
            self._drop(rid)
        self.over.set()

    def _happened(self, event: Event) -> None:
        if not isinstance(event, Arrived):
            return
        adopted = self._adopted.get(event.rid)
        if adopted is not None:
            adopted.touched_ns = time.monotonic_ns()
        if event.kind == "kv":
            if adopted is not None:
                self._block(event, adopted)
        elif event.step == OPEN:
            self._open(event)
        elif event.step == END:
            if adopted is None:
                self.delivery.confirm(0, event.rid, END, msgspec.json.encode(_Holds(0)))
            else:
                adopted.ended = True
                self.delivery.confirm(0, event.rid, OPEN, b"")  # a sign of life: the answer may take a while
                self._perhaps_all(event.rid, adopted)
        elif event.step == FAIL:
            self.delivery.confirm(0, event.rid, FAIL, b"")
            self._drop(event.rid)
        elif event.step == OVER:
            self.delivery.confirm(0, RING, OVER, b"")
            self.over.set()

    def _open(self, event: Arrived) -> None:
        rid = event.rid
        try:
            tokens = msgspec.json.decode(event.payload, type=_Coming).tokens
        except (msgspec.ValidationError, msgspec.DecodeError):
            self.delivery.count["bad_control"] += 1
            return
        self.delivery.confirm(0, rid, OPEN, b"")
        adopted = self._adopted[rid] = _Adopted(tokens, refused=self._is_over(rid))

        def fresh() -> KvSlot:
            slot = self.kv.acquire(rid)
            slot.truncate(0)
            return slot

        def done(outcome: KvSlot | Exception) -> None:
            if self._adopted.get(rid) is not adopted:
                if not adopted.claimed:
                    self._release(rid)
            elif isinstance(outcome, Exception):
                log.warning(
                    "kv_refused", request_id=rid, code=str(getattr(outcome, "code", "compute_failed"))
                )
                adopted.refused = True
                self._perhaps_all(rid, adopted)
            else:
                adopted.slot = outcome
                for block in adopted.early:
                    self._block(block, adopted)
                adopted.early.clear()
            self._flush()

        if not adopted.refused:
            self._compute.submit(fresh, done)
        for early in self.delivery.open(rid, time.monotonic_ns()):
            self._happened(early)

    def _block(self, block: Arrived, adopted: _Adopted) -> None:
        slot = adopted.slot
        if adopted.refused:
            return
        if slot is None:
            adopted.early.append(block)
            return

        def write() -> None:
            if self._adopted.get(block.rid) is adopted and not adopted.refused:
                slot.take_in(block.payload, block.dtype, block.shape, block.n)

        def done(outcome: Exception | None) -> None:
            if isinstance(outcome, Exception):
                log.warning("kv_refused", request_id=block.rid, error=repr(outcome))
                adopted.refused = True
            self._perhaps_all(block.rid, adopted)
            self._flush()

        self._compute.submit(write, done)

    def _perhaps_all(self, rid: str, adopted: _Adopted) -> None:
        """Answer the leaver's question as soon as the answer is known."""
        if self._adopted.get(rid) is not adopted or not adopted.ended:
            return
        held = 0 if adopted.slot is None else adopted.slot.length
        if adopted.refused or held == adopted.tokens:
            self.delivery.confirm(0, rid, END, msgspec.json.encode(_Holds(0 if adopted.refused else held)))
        if adopted.refused:
            self._drop(rid)

    def _drop(self, rid: str) -> None:
        self.delivery.close(rid)
        adopted = self._adopted.pop(rid, None)
        if adopted is not None and adopted.slot is not None:
            self._release(rid)

    def _release(self, rid: str) -> None:
        self._compute.submit(lambda: self.kv.release(rid))

    def _flush(self) -> None:
        _post_all(self.delivery, self._post)


def _post_all(delivery: Delivery, post: Post) -> None:
    while delivery.outgoing:
        to, message = delivery.outgoing.popleft()
        post(delivery.plan.key(to), message)
