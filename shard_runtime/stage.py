"""One node's place in a ring: turns arrivals into steps on the compute thread, and results into frames.

Knows nothing of NATS, of commands or of text. The entry's requests are driven from outside through `begin`,
`advance` and `end`; every other stage is driven by the frames alone.
"""

import asyncio
import json
import time
from collections.abc import Callable

import msgspec
import structlog
import torch

from shard_runtime.activations import ActivationInvalid
from shard_runtime.arrivals import END, FAIL, GO, OPEN, OVER, PARK, RING, Arrived, Confirmed, Event
from shard_runtime.compute import ComputeThread
from shard_runtime.delivery import Delivery
from shard_runtime.frames import Frame, WireDtype
from shard_runtime.handover import ALONE, Elsewhere, Handover, Opening
from shard_runtime.kv import KvPool, KvSlot, NoKvSlot
from shard_runtime.picked import Picked, PickedInvalid
from shard_runtime.plan import Plan
from shard_runtime.receipt_book import ReceiptBook
from shard_runtime.receipting import Receipting
from shard_runtime.receipts import SegmentReceipt
from shard_runtime.signing import ReceiptKey
from shard_runtime.slices import Slice
from shard_runtime.stepping import Result, computed
from shard_runtime.window import CREDITS
from shard_runtime.work import Ended, Timings, Work

LOST = "shard_lost"
ORPHAN_NS = 60_000_000_000
"""A stage lets go of a request of which nothing was heard for so long: its entry must be gone."""
KV_WAIT_NS, KV_RETRY_S = 1_000_000_000, 0.01
"""A request that ended may still hold its slot for a moment when the next one comes."""

Post = Callable[[str, bytes], None]
"""(peer's mesh key, message)"""
OnToken = Callable[[str, Picked], None]
"""(request id, token picked): the ring's answer to the entry's last step."""
OnFail = Callable[[str, str], None]
"""(request id, code): the ring can't go on with this request."""

log = structlog.get_logger()


class Stage:
    """`plan.me`'s part of the ring. All methods run on the event loop; tensors live on the compute thread."""

    def __init__(
        self,
        plan: Plan,
        slice_: Slice,
        kv: KvPool,
        compute: ComputeThread,
        post: Post,
        receipt_key: ReceiptKey,
        book: ReceiptBook,
        on_token: OnToken,
        on_fail: OnFail,
        stall_ns: int = 15_000_000_000,
        credits: int = CREDITS,
        elsewhere: Elsewhere = ALONE,
    ) -> None:
        self.plan, self.slice = plan, slice_
        self.delivery = Delivery(plan, time.time_ns, receipt_key, credits)
        self._kv, self._compute, self._post = kv, compute, post
        self._on_token, self._on_fail, self._stall_ns = on_token, on_fail, stall_ns
        self._work: dict[str, Work] = {}
        self.timings = Timings(tuple(member.node_id for member in plan.members))
        self.receipting = Receipting(plan, compute, book)
        self._heard_ns = 0
        self._elsewhere = elsewhere
        self.handover = Handover(self, elsewhere)
        self.over = False
        """Nothing new can come: the entry has left this ring."""
        self.heard_over: set[int] = set()
        """At the entry: the stages that know this."""
        self._wire_dtype: WireDtype = "float32" if slice_.dtype == torch.float32 else "bfloat16"

    @property
    def kv_used(self) -> int:
        return self._kv.used

    @property
    def requests(self) -> int:
        return len(self._work)

    # The entry's side

    def begin(self, rid: str, opening: Opening, ids: tuple[int, ...]) -> None:
        """Open `rid` on every stage and send the prompt round the ring; the answer comes to `on_token`."""
        said = msgspec.json.encode(opening)
        self.delivery.open(rid, time.monotonic_ns())
        for stage in self.plan.others:
            self.say(stage, rid, OPEN, said)
        self.flush()
        self.open(rid, opening)
        self.step(rid, 0, len(ids), torch.tensor(ids, dtype=torch.int64))

    def resume(self, rid: str, opening: Opening, ids: tuple[int, ...]) -> None:
        """As `begin`, of a request that an earlier epoch began: with the KV that moved, else from its ids."""
        self.handover.resume(rid, opening, ids)
        work = self._work[rid]
        work.waiting_since_ns, work.patience_ns = time.monotonic_ns(), self._stall_ns

    def advance(self, rid: str, position: int, token: int) -> None:
        """Send one token, which stands at `position`, round the ring."""
        self.step(rid, position, 1, torch.tensor((token,), dtype=torch.int64))

    def end(self, rid: str) -> None:
        """Free `rid` on every stage."""
        self._end_here(rid)
        for stage in self.plan.others:
            self.say(stage, rid, END, b"{}")
        self.flush()

    def leave_ring(self) -> None:
        """Tell every stage that nothing more will come."""
        self.over = True
        for stage in self.plan.others:
            self.say(stage, RING, OVER, b"{}")
        self.flush()

    # From the mesh and the clock

    def take(self, frame: Frame, mesh_sender: str) -> None:
        for event in self.delivery.take(frame, mesh_sender, time.monotonic_ns()):
            self._happened(event)
        self.flush()

    def refuse(self, raw: bytes, mesh_sender: str) -> None:
        """For a frame that could not be decoded: count it, and answer one of another version."""
        self.delivery.receive(raw, mesh_sender, time.monotonic_ns())
        self.flush()

    def tick(self) -> None:
        """Retransmit what is due; give up requests that stand still."""
        now_ns = time.monotonic_ns()
        self.delivery.tick(now_ns)
        for rid, work in list(self._work.items()):
            if self.plan.is_entry:
                since = work.waiting_since_ns
                if since is not None and now_ns - max(since, self._heard_ns) > work.patience_ns:
                    log.warning("ring_stands_still", request_id=rid)
                    self._on_fail(rid, LOST)
            elif self.handover.is_parked(rid):
                continue
            elif now_ns - (self.delivery.idle_since_ns(rid) or work.opened_ns) > ORPHAN_NS:
                self.delivery.count["orphaned"] += 1
                self._close(rid)
        self.handover.tick(now_ns)
        self.flush()

    def leave(self) -> None:
        """This stage stops: its entry is told for every open request, so that nobody waits for nothing."""
        for rid in list(self._work):
            self._fail(rid, LOST)

    # For the handover between rings

    def knows(self, rid: str) -> bool:
        return rid in self._work

    def slot_of(self, rid: str) -> KvSlot | None:
        work = self._work.get(rid)
        return None if work is None else work.kv

    def let_go(self, rid: str) -> bool:
        """Forget a parked request, but leave its KV to whoever claims it; whether there was one."""
        if not self.handover.is_parked(rid) or self._work.pop(rid, None) is None:
            return False
        self.handover.forget(rid)
        self.delivery.close(rid)
        return True

    def release(self, rid: str) -> None:
        """Free a request here; nobody waits for its timings."""
        self._close(rid)
        self.timings.forget(rid)

    def go_on(self, rid: str, at: int) -> None:
        """Take steps from `at` on, with exactly so many tokens in the KV."""
        kv = self.slot_of(rid)
        if kv is None:
            return
        self._compute.submit(lambda: kv.truncate(at))
        for early in self.delivery.open(rid, time.monotonic_ns(), at):
            self._happened(early)

    def say(self, stage: int, rid: str, step: int, said: bytes) -> None:
        """One control frame, sent with the next `flush`."""
        self.delivery.send("control", stage, rid, step, 0, "json", (len(said),), said, time.monotonic_ns())

    def flush(self) -> None:
        outgoing = self.delivery.outgoing
        while outgoing:
            to, message = outgoing.popleft()
            self._post(self.plan.key(to), message)

    # Inside

    def _happened(self, event: Event) -> None:
        if isinstance(event, Arrived):
            if event.kind == "control":
                self._control(event)
            elif event.kind == "token":
                self._token(event)
            else:
                self._hidden(event)
        elif isinstance(event, Confirmed):
            if event.step == END:
                self.timings.told(event.rid, event.sender, event.payload)
            elif event.step in (OPEN, PARK):
                self.handover.told(event)
            elif event.step == OVER:
                self.heard_over.add(event.sender)
        elif event.rid in self._work:
            log.warning("peer_refused", request_id=event.rid, reason=event.reason)
            self._fail(event.rid, LOST)

    def _control(self, event: Arrived) -> None:
        now_ns = time.monotonic_ns()
        try:
            said = json.loads(bytes(event.payload))
            opening = msgspec.convert(said, Opening) if event.step == OPEN else None
            if event.step == GO:
                self.handover.go(event)
            elif event.step == PARK:
                self.handover.asked_to_park(event)
        except (ValueError, msgspec.ValidationError):
            self.delivery.count["bad_control"] += 1
            return
        if opening is not None and opening.held:
            self.handover.asked_to_resume(event, opening)
        elif opening is not None:
            self.delivery.confirm(event.sender, event.rid, OPEN, b"")
            self.open(event.rid, opening)
            for early in self.delivery.open(event.rid, now_ns):
                self._happened(early)
        elif event.step == END:
            self._asked_to_end(event, moved=isinstance(said, dict) and said.get("moved") is True)
        elif event.step == FAIL:
            self.delivery.confirm(event.sender, event.rid, FAIL, b"")
            code = said.get("code") if isinstance(said, dict) else None
            self._fail(event.rid, str(code)[:64] if code else LOST)
        elif event.step == OVER:
            self.delivery.confirm(event.sender, event.rid, OVER, b"")
            self.over = True

    def _asked_to_end(self, event: Arrived, *, moved: bool) -> None:
        work = self._work.get(event.rid)
        timing = self.timings.of(self.plan.me, work)

        def tell(receipts: tuple[SegmentReceipt, ...]) -> None:
            said = msgspec.json.encode(Ended(timing, receipts))
            self.delivery.confirm(event.sender, event.rid, END, said)
            self.flush()

        self._end_here(event.rid, moved=moved)
        self.receipting.tell(event.rid, None if work is None else work.ledger, tell)

    def _token(self, event: Arrived) -> None:
        work = self._work.get(event.rid)
        if work is None or event.dtype != "int64":
            self.delivery.count["bad_token"] += 1
            return
        try:
            picked = Picked.of_cells(event.payload, self.slice.vocab_size)
        except PickedInvalid:
            self.delivery.count["bad_token"] += 1
            return
        self._heard_ns = time.monotonic_ns()
        work.waiting_since_ns = None
        work.hopped(event.hop_ns)
        self._on_token(event.rid, picked)

    def _hidden(self, event: Arrived) -> None:
        work = self._work.get(event.rid)
        if work is None:
            return
        if event.dtype != self._wire_dtype or event.shape != (event.n, self.slice.d_model):
            self._fail(event.rid, ActivationInvalid.code)
            return
        work.hopped(event.hop_ns)
        self.handover.goes_on(event.rid)
        self.step(event.rid, event.step, event.n, event)

    def open(self, rid: str, opening: Opening, opened: Callable[[KvSlot], None] = lambda kv: None) -> None:
        if rid in self._work:
            return
        ledger = self.receipting.ledger(opening.terms, opening.sampling)
        work = self._work[rid] = Work(opening.sampling, ledger)
        begun_ns = time.monotonic_ns()

        def done(outcome: KvSlot | Exception) -> None:
            if self._work.get(rid) is not work:
                self._compute.submit(lambda: self._kv.release(rid))
            elif isinstance(outcome, NoKvSlot) and time.monotonic_ns() - begun_ns < KV_WAIT_NS:
                asyncio.get_running_loop().call_later(KV_RETRY_S, acquire)
            elif isinstance(outcome, Exception):
                self._fail(rid, code_of(outcome))
            else:
                work.kv = outcome
                opened(outcome)
                for step in work.early:
                    step()
                work.early.clear()

        def acquire() -> None:
            if self._work.get(rid) is work:
                self._compute.submit(lambda: self._kv.acquire(rid), done)

        acquire()

    def step(self, rid: str, step: int, n: int, given: torch.Tensor | Arrived) -> None:
        work = self._work.get(rid)
        if work is None:
            return
        if work.kv is None:
            work.early.append(lambda: self.step(rid, step, n, given))
            return
        kv = work.kv

        def run() -> Result | None:
            mine = self._work.get(rid) is work
            return computed(self.slice, kv, work, step, n, given) if mine else None

        def done(outcome: Result | Exception | None) -> None:
            if self._work.get(rid) is not work or outcome is None:
                return
            if isinstance(outcome, Exception):
                log.error("step_failed", request_id=rid, error=type(outcome).__name__, code=code_of(outcome))
                self._fail(rid, code_of(outcome))
                return
            work.computed(outcome.compute_ns)
            self._computed(rid, work, step, n, outcome)

        self._compute.submit(run, done)

    def _computed(self, rid: str, work: Work, step: int, n: int, result: Result) -> None:
        now_ns = time.monotonic_ns()
        if result.picked is None:
            shape, dtype, to = result.shape, self._wire_dtype, self.plan.downstream
            self.delivery.send("hidden", to, rid, step, n, dtype, shape, result.payload, now_ns)
            if self.plan.is_entry:
                work.waiting_since_ns = now_ns
                work.patience_ns = self._stall_ns + n * self._stall_ns // 500
        elif self.plan.is_entry:
            self._on_token(rid, result.picked)
        else:
            cells = result.picked.cells()
            self.delivery.send("token", 0, rid, step, n, "int64", (len(cells) // 8,), cells, now_ns)
        self.flush()

    def _fail(self, rid: str, code: str) -> None:
        if rid not in self._work:
            return
        if self.plan.is_entry:
            self._on_fail(rid, code)
            return
        self._close(rid)
        said = json.dumps({"code": code}).encode()
        self.delivery.send("control", 0, rid, FAIL, 0, "json", (len(said),), said, time.monotonic_ns())
        self.flush()

    def _end_here(self, rid: str, *, moved: bool = False) -> None:
        """The request is over, whoever on this node holds its KV; if it `moved`, in this ring only."""
        if not moved:
            self._elsewhere.drop(rid)
            if rid not in self._work and self._elsewhere.claim(rid):
                self._compute.submit(lambda: self._kv.release(rid))
        self._close(rid)

    def _close(self, rid: str) -> None:
        if self.plan.is_entry and rid in self._work:
            self.timings.begin(rid, self.plan.me, self._work[rid])
        self.delivery.close(rid)
        self.handover.forget(rid)
        if self._work.pop(rid, None) is not None:
            self._compute.submit(lambda: self._kv.release(rid))


def code_of(failure: Exception) -> str:
    """The stable code of a named error, or `compute_failed`."""
    return str(getattr(failure, "code", "compute_failed"))
