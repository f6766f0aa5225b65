"""One node's place in a ring: turns arrivals into steps on the compute thread, and results into frames.

Knows nothing of NATS, of commands or of text. The entry's requests are driven from outside through `begin`,
`advance` and `end`; every other stage is driven by the frames alone.
"""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

import msgspec
import structlog
import torch

from shard_runtime.activations import ActivationInvalid, from_bytes, to_bytes
from shard_runtime.arrivals import END, FAIL, OPEN, Arrived, Confirmed, Event
from shard_runtime.compute import ComputeThread
from shard_runtime.delivery import Delivery
from shard_runtime.frames import Frame, WireDtype
from shard_runtime.kv import KvPool, KvSlot, NoKvSlot
from shard_runtime.messages import HopTiming, Sampling
from shard_runtime.picked import Picked, PickedInvalid
from shard_runtime.plan import Plan
from shard_runtime.sampling import pick, weighed
from shard_runtime.signing import ReceiptKey
from shard_runtime.slices import Slice
from shard_runtime.window import CREDITS

LOST = "shard_lost"
ORPHAN_NS = 60_000_000_000
"""A stage lets go of a request of which nothing was heard for so long: its entry must be gone."""
KV_WAIT_NS, KV_RETRY_S = 1_000_000_000, 0.01
"""A request that ended may still hold its slot for a moment when the next one comes."""
SAMPLES = 4096

Post = Callable[[str, bytes], None]
"""(peer's mesh key, message)"""
OnToken = Callable[[str, Picked], None]
"""(request id, token picked): the ring's answer to the entry's last step."""
OnFail = Callable[[str, str], None]
"""(request id, code): the ring can't go on with this request."""

log = structlog.get_logger()


class _Opening(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sampling: Sampling


@dataclass(slots=True)
class _Work:
    """One open request on this stage."""

    sampling: Sampling
    kv: KvSlot | None = None
    early: list[Callable[[], None]] = field(default_factory=list)
    """Steps that came before there was a KV slot."""
    compute_ns: list[int] = field(default_factory=list)
    hop_ns: list[int] = field(default_factory=list)
    waiting_since_ns: int | None = None
    """At the entry: since when the ring owes a token."""
    patience_ns: int = 0


@dataclass(frozen=True, slots=True)
class _Result:
    """Of one step: bytes for the next stage, or the picked token."""

    payload: bytes | memoryview
    shape: tuple[int, ...]
    picked: Picked | None
    compute_ns: int


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
        on_token: OnToken,
        on_fail: OnFail,
        stall_ns: int = 15_000_000_000,
        credits: int = CREDITS,
    ) -> None:
        self.plan, self.slice = plan, slice_
        self.delivery = Delivery(plan, time.time_ns, receipt_key, credits)
        self._kv, self._compute, self._post = kv, compute, post
        self._on_token, self._on_fail, self._stall_ns = on_token, on_fail, stall_ns
        self._work: dict[str, _Work] = {}
        self._hops: dict[str, dict[int, HopTiming]] = {}
        self._heard_ns = 0
        self._wire_dtype: WireDtype = "float32" if slice_.dtype == torch.float32 else "bfloat16"

    @property
    def kv_used(self) -> int:
        return self._kv.used

    @property
    def requests(self) -> int:
        return len(self._work)

    # The entry's side

    def begin(self, rid: str, sampling: Sampling, ids: tuple[int, ...]) -> None:
        """Open `rid` on every stage and send the prompt round the ring; the answer comes to `on_token`."""
        now_ns = time.monotonic_ns()
        opening = msgspec.json.encode(_Opening(sampling))
        self.delivery.open(rid, now_ns)
        for stage in self.plan.others:
            self.delivery.send("control", stage, rid, OPEN, 0, "json", (len(opening),), opening, now_ns)
        self._flush()
        self._open(rid, sampling)
        self._step(rid, 0, len(ids), torch.tensor(ids, dtype=torch.int64))

    def advance(self, rid: str, position: int, token: int) -> None:
        """Send one token, which stands at `position`, round the ring."""
        self._step(rid, position, 1, torch.tensor((token,), dtype=torch.int64))

    def end(self, rid: str) -> None:
        """Free `rid` on every stage."""
        self._close(rid)
        now_ns = time.monotonic_ns()
        for stage in self.plan.others:
            self.delivery.send("control", stage, rid, END, 0, "json", (2,), b"{}", now_ns)
        self._flush()

    def hops(self, rid: str) -> tuple[HopTiming, ...]:
        """Timings of an ended request, of the stages that have confirmed its end so far, in ring order."""
        told = self._hops.get(rid, {})
        return tuple(told[stage] for stage in sorted(told))

    def all_told(self, rid: str) -> bool:
        """Have all stages confirmed that `rid` is over?"""
        return len(self._hops.get(rid, {})) == len(self.plan.members)

    def forget(self, rid: str) -> None:
        """Drop the timings of an ended request."""
        self._hops.pop(rid, None)

    # From the mesh and the clock

    def take(self, frame: Frame, mesh_sender: str) -> None:
        for event in self.delivery.take(frame, mesh_sender, time.monotonic_ns()):
            self._happened(event)
        self._flush()

    def refuse(self, raw: bytes, mesh_sender: str) -> None:
        """For a frame that could not be decoded: count it, and answer one of another version."""
        self.delivery.receive(raw, mesh_sender, time.monotonic_ns())
        self._flush()

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
            elif now_ns - (self.delivery.idle_since_ns(rid) or now_ns) > ORPHAN_NS:
                self.delivery.count["orphaned"] += 1
                self._close(rid)
        self._flush()

    def leave(self) -> None:
        """This stage stops: its entry is told for every open request, so that nobody waits for nothing."""
        for rid in list(self._work):
            self._fail(rid, LOST)

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
                self._told(event)
        elif event.rid in self._work:
            log.warning("peer_refused", request_id=event.rid, reason=event.reason)
            self._fail(event.rid, LOST)

    def _control(self, event: Arrived) -> None:
        now_ns = time.monotonic_ns()
        try:
            said = json.loads(bytes(event.payload))
            opening = msgspec.convert(said, _Opening) if event.step == OPEN else None
        except (ValueError, msgspec.ValidationError):
            self.delivery.count["bad_control"] += 1
            return
        if opening is not None:
            self.delivery.confirm(event.sender, event.rid, OPEN, b"")
            self._open(event.rid, opening.sampling)
            for early in self.delivery.open(event.rid, now_ns):
                self._happened(early)
        elif event.step == END:
            timing = self._timing(event.rid)
            self._close(event.rid)
            self.delivery.confirm(event.sender, event.rid, END, msgspec.json.encode(timing))
        elif event.step == FAIL:
            self.delivery.confirm(event.sender, event.rid, FAIL, b"")
            code = said.get("code") if isinstance(said, dict) else None
            self._fail(event.rid, str(code)[:64] if code else LOST)

    def _told(self, event: Confirmed) -> None:
        if event.rid not in self._hops:
            return
        try:
            timing = msgspec.json.decode(event.payload, type=HopTiming)
        except msgspec.DecodeError:
            timing = HopTiming(self.plan.members[event.sender].node_id, 0.0, 0.0)
        self._hops[event.rid][event.sender] = timing

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
        if len(work.hop_ns) < SAMPLES:
            work.hop_ns.append(event.hop_ns)
        self._on_token(event.rid, picked)

    def _hidden(self, event: Arrived) -> None:
        work = self._work.get(event.rid)
        if work is None:
            return
        if event.dtype != self._wire_dtype or event.shape != (event.n, self.slice.d_model):
            self._fail(event.rid, ActivationInvalid.code)
            return
        if len(work.hop_ns) < SAMPLES:
            work.hop_ns.append(event.hop_ns)
        self._step(event.rid, event.step, event.n, event)

    def _open(self, rid: str, sampling: Sampling) -> None:
        if rid in self._work:
            return
        work = self._work[rid] = _Work(sampling)

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
                for step in work.early:
                    step()
                work.early.clear()

        def acquire() -> None:
            if self._work.get(rid) is work:
                self._compute.submit(lambda: self._kv.acquire(rid), done)

        acquire()

    def _step(self, rid: str, step: int, n: int, given: torch.Tensor | Arrived) -> None:
        work = self._work.get(rid)
        if work is None:
            return

        if work.kv is None:
            work.early.append(lambda: self._step(rid, step, n, given))
            return
        kv = work.kv

        def run() -> _Result | None:
            if self._work.get(rid) is not work:
                return None
            begun = time.perf_counter_ns()
            x = from_bytes(given.payload, given.dtype, given.shape) if isinstance(given, Arrived) else given
            if kv.length != step:
                raise ActivationInvalid(f"step {step} after {kv.length} tokens")
            out = self.slice.step(x, kv)
            if self.plan.is_exit:
                token, asked = pick(out, work.sampling, step + n), work.sampling.logprobs
                picked = Picked(token) if asked is None else weighed(out, token, asked)
                return _Result(b"", (), picked, time.perf_counter_ns() - begun)
            return _Result(to_bytes(out), tuple(out.shape), None, time.perf_counter_ns() - begun)

        def done(outcome: _Result | Exception | None) -> None:
            if self._work.get(rid) is not work or outcome is None:
                return
            if isinstance(outcome, Exception):
                log.error("step_failed", request_id=rid, error=type(outcome).__name__, code=code_of(outcome))
                self._fail(rid, code_of(outcome))
                return
            if len(work.compute_ns) < SAMPLES:
                work.compute_ns.append(outcome.compute_ns)
            self._computed(rid, work, step, n, outcome)

        self._compute.submit(run, done)

    def _computed(self, rid: str, work: _Work, step: int, n: int, result: _Result) -> None:
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
        self._flush()

    def _fail(self, rid: str, code: str) -> None:
        if rid not in self._work:
            return
        if self.plan.is_entry:
            self._on_fail(rid, code)
            return
        self._close(rid)
        said = json.dumps({"code": code}).encode()
        self.delivery.send("control", 0, rid, FAIL, 0, "json", (len(said),), said, time.monotonic_ns())
        self._flush()

    def _close(self, rid: str) -> None:
        if self.plan.is_entry and rid in self._work:
            self._hops[rid] = {0: self._timing(rid)}
        self.delivery.close(rid)
        if self._work.pop(rid, None) is not None:
            self._compute.submit(lambda: self._kv.release(rid))

    def _timing(self, rid: str) -> HopTiming:
        work = self._work.get(rid)
        compute_ns = work.compute_ns if work is not None else []
        hop_ns = work.hop_ns if work is not None else []
        return HopTiming(
            self.plan.members[self.plan.me].node_id,
            round(median(compute_ns) / 1e6, 4) if compute_ns else 0.0,
            round(median(hop_ns) / 1e6, 4) if hop_ns else 0.0,
        )

    def _flush(self) -> None:
        outgoing = self.delivery.outgoing
        while outgoing:
            to, message = outgoing.popleft()
            self._post(self.plan.key(to), message)


def code_of(failure: Exception) -> str:
    """The stable code of a named error, or `compute_failed`."""
    return str(getattr(failure, "code", "compute_failed"))
