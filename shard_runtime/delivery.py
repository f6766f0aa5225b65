"""The delivery protocol of a ring: each step arrives once and in order, whatever the mesh loses or repeats.

Knows nothing of sockets, clocks, tensors or what a step computes: it takes frames and a `now_ns`, and gives
back frames to send and arrivals. Data frames are acknowledged by effect: what comes back round the ring for
step `s` says that `s` was computed everywhere. Explicit `ack` frames (whose `n` is the part they mean) are
sent only for control frames, for large ones, when the sender runs low on credit, and for a repeated step
whose result is not on the way: then it is this stage that asks for it, if it gets lost (see `outbox`).
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from shard_runtime.arrivals import FAIL, OPEN, Arrived, Confirmed, Event, Refused, reason_in
from shard_runtime.copies import Copies
from shard_runtime.evidence import Evidence
from shard_runtime.frames import (
    PART_BYTES,
    Frame,
    FrameRejected,
    Header,
    Kind,
    WireDtype,
    address_of,
    decode,
    digest_of,
    parts_of,
)
from shard_runtime.outbox import Outbox
from shard_runtime.outstanding import Outstanding
from shard_runtime.plan import Plan, same_sender
from shard_runtime.reassembly import Reassembly, ReassemblyFull
from shard_runtime.signing import ReceiptKey, Signers, statement
from shard_runtime.window import CREDITS

LOW_CREDIT = 4
ACK_AT_ONCE_BYTES = 64 * 1024
STRANGER_TTL_NS = 30_000_000_000
STRANGERS = 256
"""Data frames kept for requests whose opening has not arrived yet (it comes from another sender)."""
TOMBSTONES = 4096
SAID_BYTES = 16 * 1024 * 1024
"""Of the words kept for repeated control frames: a stage's receipts may be long."""
SENDINGS = 1024


@dataclass(slots=True)
class _Request:
    expected: int = 0
    held: dict[int, Arrived] = field(default_factory=dict)
    touched_ns: int = 0
    asks_from: int = -1
    """The last step that was acknowledged in so many words: its sender does not repeat it any more."""


class Delivery:
    """One stage's end of the protocol for one pool at one epoch.

    `wall_ns` is read only to stamp and to time hops; all protocol time is the `now_ns` that is passed in.
    `count` counts every frame dropped, by reason, and `sent`, `received`, `retransmitted`, `acks`.
    """

    def __init__(
        self, plan: Plan, wall_ns: Callable[[], int], receipt_key: ReceiptKey, credits: int = CREDITS,
        carries: Kind = "hidden",
    ) -> None:  # fmt: skip
        self.plan, self._carries = plan, carries
        self.count: Counter[str] = Counter()
        self.evidence = Evidence()
        self._signers = Signers(plan.receipt_keys)
        self._out = Outbox(plan, wall_ns, receipt_key, self.count, credits)
        self._wall_ns = wall_ns
        self._requests: dict[str, _Request] = {}
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._control_seen: OrderedDict[tuple[int, str, int], bytes] = OrderedDict()
        self._said_bytes = 0
        self._copies = Copies(SENDINGS)
        self._parts = Reassembly()
        self._strangers: dict[str, list[tuple[int, Arrived]]] = {}
        self._stranger_count = 0

    @property
    def outgoing(self) -> deque[tuple[int, bytes]]:
        """(stage, frame bytes), to be taken and sent by the owner."""
        return self._out.outgoing

    # What the owner says

    def open(self, rid: str, now_ns: int, at: int = 0) -> list[Event]:
        """Begin a request, with step `at`; gives back what had already arrived for it."""
        if rid in self._requests or rid in self._ended:
            return []
        self._requests[rid] = _Request(at, touched_ns=now_ns)
        early = self._strangers.pop(rid, [])
        self._stranger_count -= len(early)
        events: list[Event] = []
        for _, arrived in early:
            events += self._in_order(arrived, now_ns)
        return events

    def close(self, rid: str) -> None:
        """Forget a request: nothing more of it is sent or taken, but for control frames sent after this."""
        self._requests.pop(rid, None)
        self._remember_end(rid)
        self._out.forget(rid)
        self._parts.forget(rid)
        self._stranger_count -= len(self._strangers.pop(rid, []))

    def send(
        self,
        kind: Kind,
        to: int,
        rid: str,
        step: int,
        n: int,
        dtype: WireDtype,
        shape: tuple[int, ...],
        payload: bytes | memoryview,
        now_ns: int,
    ) -> None:
        """Queue one message; it is kept and repeated until an `ack` or its effect acknowledges it."""
        parts, request = parts_of(len(payload)), self._requests.get(rid)
        asks = self.plan.is_entry or request is None or request.asks_from == step
        patient = kind in ("hidden", "token") and not asks and len(payload) <= ACK_AT_ONCE_BYTES
        for part in range(parts):
            begin = part * PART_BYTES
            piece = payload if parts == 1 else memoryview(payload)[begin : begin + PART_BYTES]
            digest = digest_of(piece)
            frame = Outstanding(to, kind, rid, step, n, dtype, shape, part, parts, piece, digest, patient)
            self._out.put(frame, now_ns)

    def idle_since_ns(self, rid: str) -> int | None:
        """When this request last had something arrive here; None when it is not open."""
        request = self._requests.get(rid)
        return None if request is None else request.touched_ns

    def has_ended(self, rid: str) -> bool:
        """Whether this request was closed here; of the last few thousand."""
        return rid in self._ended

    @property
    def quiet(self) -> bool:
        """Nothing is waiting to be acknowledged, sent or put together."""
        return self._out.empty and not (self._parts or self._strangers)

    # What the mesh says

    def receive(self, raw: bytes, mesh_sender: str, now_ns: int) -> list[Event]:
        """Take one message from the mesh; `mesh_sender` is its own account of who sent it."""
        try:
            frame = decode(raw)
        except FrameRejected as rejected:
            self.count[rejected.code] += 1
            if rejected.code == "unknown_version":
                self._nack_version(raw, mesh_sender)
            return []
        return self.take(frame, mesh_sender, now_ns)

    def take(self, frame: Frame, mesh_sender: str, now_ns: int) -> list[Event]:
        """As `receive`, for a frame that is already decoded."""
        header, plan = frame.header, self.plan
        if header.pool != plan.pool_id or header.to != plan.my_key:
            return self._drop("misdirected")
        if header.epoch != plan.epoch:
            return self._drop("old_epoch" if header.epoch < plan.epoch else "unknown_epoch")
        sender = plan.stage_of(header.from_)
        if sender is None or sender == plan.me:
            return self._drop("not_a_member")
        if not same_sender(header.from_, mesh_sender):
            return self._drop("wrong_sender")
        if not self._signers.signed(sender, statement(header), header.sig):
            return self._drop("bad_signature")
        self.count["received"] += 1
        if header.kind == "ack":
            return self._acknowledged(header, frame.payload, sender, now_ns)
        if header.kind == "nack":
            return [Refused(sender, header.rid, reason_in(frame.payload))]
        if header.kind == "control":
            return self._control(header, frame.payload, sender)
        expected_kind = "token" if plan.is_entry else self._carries
        if header.kind != expected_kind or sender != plan.upstream or header.step < 0 or header.n < 1:
            return self._drop("wrong_stage")
        return self._data(header, frame.payload, sender, now_ns)

    def tick(self, now_ns: int) -> None:
        """Repeat what is due and let go of what waited too long. Call it every few tens of milliseconds."""
        self._out.tick(now_ns)
        self.count["reassembly_expired"] += self._parts.expire(now_ns)
        for rid, early in list(self._strangers.items()):
            if now_ns - early[0][0] > STRANGER_TTL_NS:
                del self._strangers[rid]
                self._stranger_count -= len(early)
                self.count["unknown_request"] += len(early)
                first = early[0][1]
                self._out.reply("nack", first.sender, rid, first.step, 0, b'{"reason":"unknown_request"}')

    # Acknowledgements

    def _acknowledged(
        self, header: Header, payload: bytes | memoryview, sender: int, now_ns: int
    ) -> list[Event]:
        frame = self._out.acknowledged(sender, header.rid, header.step, header.n, now_ns)
        if frame is None:
            return self._drop("late_ack")
        if frame.kind == "control":
            return [Confirmed(sender, header.rid, header.step, bytes(payload))]
        return []

    def _acknowledge(self, header: Header, sender: int) -> None:
        """Of a data frame: its sender leaves it to this stage to ask for what is to come of it."""
        self._out.reply("ack", sender, header.rid, header.step, header.part, b"")
        request = self._requests.get(header.rid)
        if request is not None:
            request.asks_from = header.step

    def _nack_version(self, raw: bytes, mesh_sender: str) -> None:
        address = address_of(raw)
        if address is None or address.pool != self.plan.pool_id:
            return
        if not same_sender(address.from_, mesh_sender):
            return
        sender = self.plan.stage_of(address.from_)
        if sender is not None and sender != self.plan.me:
            self._out.reply("nack", sender, address.rid, 0, 0, b'{"reason":"unknown_version","speaks":[1]}')

    # Receiving

    def _drop(self, reason: str) -> list[Event]:
        self.count[reason] += 1
        return []

    def _remember_end(self, rid: str) -> None:
        self._ended[rid] = None
        while len(self._ended) > TOMBSTONES:
            self._ended.popitem(last=False)

    def confirm(self, to: int, rid: str, step: int, payload: bytes) -> None:
        """Acknowledge a control frame that arrived, with a few words; repeats of it get the same answer.

        One that is repeated after its answer was forgotten arrives again.
        """
        self._said_bytes += len(payload) - len(self._control_seen.get((to, rid, step), b""))
        self._control_seen[(to, rid, step)] = payload
        while len(self._control_seen) > TOMBSTONES or self._said_bytes > SAID_BYTES:
            self._said_bytes -= len(self._control_seen.popitem(last=False)[1])
        self._out.reply("ack", to, rid, step, 0, payload)

    def _control(self, header: Header, payload: bytes | memoryview, sender: int) -> list[Event]:
        if header.parts != 1 or header.step >= 0 or (sender != 0 and header.step != FAIL):
            return self._drop("wrong_stage")
        said = self._control_seen.get((sender, header.rid, header.step))
        if said is None and header.step == OPEN and header.rid in self._ended:
            said = b""
        copy = self._copies.copy((sender, header.rid, header.step), header.attempt)
        if said is not None:
            if not copy:
                self._out.reply("ack", sender, header.rid, header.step, 0, said)
            return self._drop("duplicate")
        return [self._arrived(header, bytes(payload), sender)]

    def _arrived(self, header: Header, payload: bytes | memoryview, sender: int) -> Arrived:
        hop = self._wall_ns() - header.sent_ns
        return Arrived(
            header.kind, sender, header.rid, header.step, header.n, header.dtype, header.shape, payload, hop
        )

    def _data(self, header: Header, payload: bytes | memoryview, sender: int, now_ns: int) -> list[Event]:
        rid, request = header.rid, self._requests.get(header.rid)
        copy = self._copies.copy((sender, rid, header.step, header.part), header.attempt)
        if request is None and rid in self._ended:
            if header.attempt and not copy:
                self._acknowledge(header, sender)
            return self._drop("ended")
        if request is not None:
            request.touched_ns = now_ns
            if header.step < request.expected or header.step in request.held:
                if not copy and not self._out.again(rid, header.step, now_ns):
                    self._acknowledge(header, sender)
                return self._drop("duplicate")
            if header.step > request.expected and len(request.held) >= CREDITS:
                return self._drop("held_full")
        if header.parts > 1:
            whole = self._put_together(header, payload, sender, now_ns)
            if whole is None:
                return []
            payload = whole
        else:
            self.evidence.keep(header)
            if header.kind == "kv" or header.credit <= LOW_CREDIT or len(payload) > ACK_AT_ONCE_BYTES:
                self._acknowledge(header, sender)
        arrived = self._arrived(header, payload, sender)
        if request is None:
            return self._stranger(arrived, now_ns)
        return self._in_order(arrived, now_ns)

    def _stranger(self, arrived: Arrived, now_ns: int) -> list[Event]:
        early = self._strangers.get(arrived.rid, [])
        if any(other.step == arrived.step for _, other in early):
            return self._drop("duplicate")
        if self._stranger_count >= STRANGERS:
            return self._drop("strangers_full")
        self._strangers.setdefault(arrived.rid, []).append((now_ns, arrived))
        self._stranger_count += 1
        return []

    def _in_order(self, arrived: Arrived, now_ns: int) -> list[Event]:
        request = self._requests[arrived.rid]
        request.held[arrived.step] = arrived
        events: list[Event] = []
        while (following := request.held.pop(request.expected, None)) is not None:
            request.expected += following.n
            used = following.step if self.plan.is_entry else following.step - 1  # all round the ring
            self._out.effect(self.plan.downstream, arrived.rid, used, now_ns)
            events.append(following)
        return events

    def _put_together(
        self, header: Header, payload: bytes | memoryview, sender: int, now_ns: int
    ) -> bytes | None:
        try:
            whole = self._parts.put(sender, header, payload, now_ns)
        except ReassemblyFull:
            self._drop("reassembly_full")
            return None
        self.evidence.keep(header)
        self._acknowledge(header, sender)
        return whole
