"""The delivery protocol of a ring: each step arrives once and in order, whatever the mesh loses or repeats.

Knows nothing of sockets, clocks, tensors or what a step computes: it takes frames and a `now_ns`, and gives
back frames to send and arrivals. Data frames are acknowledged by effect: what comes back round the ring for
step `s` says that `s` was computed everywhere. Explicit `ack` frames (whose `n` is the part they mean) are
sent only for control frames, for large ones, for repeated ones and when the sender runs low on credit.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from msgspec.structs import replace

from shard_runtime.arrivals import FAIL, OPEN, Arrived, Confirmed, Event, Refused, reason_in
from shard_runtime.evidence import Evidence
from shard_runtime.frames import (
    PART_BYTES,
    VERSION,
    Frame,
    FrameRejected,
    Header,
    Kind,
    WireDtype,
    address_of,
    decode,
    digest_of,
    encode,
    parts_of,
)
from shard_runtime.outstanding import Outstanding
from shard_runtime.plan import Plan, same_sender
from shard_runtime.reassembly import Reassembly, ReassemblyFull
from shard_runtime.signing import ReceiptKey, Signers, statement
from shard_runtime.window import CREDITS

LOW_CREDIT = 4
ACK_AT_ONCE_BYTES = 64 * 1024
FIRST_RTO_NS = 1_000_000_000
CONTROL_RTO_NS = 200_000_000
"""Control frames are confirmed before anything is computed, so silence means loss."""
GIVE_UP_NS = 120_000_000_000
"""A peer that has not confirmed a control frame by then is gone, and what it held with it."""
MIN_RTO_NS = 100_000_000
MAX_RTO_NS = 1_000_000_000
RESEND_GAP_NS = 20_000_000
STRANGER_TTL_NS = 10_000_000_000
STRANGERS = 256
"""Data frames kept for requests whose opening has not arrived yet (it comes from another sender)."""
TOMBSTONES = 4096

_Key = tuple[int, str, int, int]
"""(peer stage, rid, step, part)"""


@dataclass(slots=True)
class _Request:
    expected: int = 0
    held: dict[int, Arrived] = field(default_factory=dict)
    touched_ns: int = 0


class Delivery:
    """One stage's end of the protocol for one pool at one epoch.

    `wall_ns` is read only to stamp and to time hops; all protocol time is the `now_ns` that is passed in.
    `count` counts every frame dropped, by reason, and `sent`, `received`, `retransmitted`, `acks`.
    """

    def __init__(
        self, plan: Plan, wall_ns: Callable[[], int], receipt_key: ReceiptKey, credits: int = CREDITS
    ) -> None:
        self.plan, self._credits = plan, credits
        self.count: Counter[str] = Counter()
        self.evidence = Evidence()
        self._receipt_key, self._signers = receipt_key, Signers(plan.receipt_keys)
        self.outgoing: deque[tuple[int, bytes]] = deque()
        """(stage, frame bytes), to be taken and sent by the owner."""
        self._wall_ns = wall_ns
        self._requests: dict[str, _Request] = {}
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._control_seen: OrderedDict[tuple[int, str, int], bytes] = OrderedDict()
        self._outstanding: dict[_Key, Outstanding] = {}
        self._waiting: dict[int, deque[Outstanding]] = {stage: deque() for stage in plan.others}
        self._in_flight: Counter[int] = Counter()
        self._rtt_ns: dict[int, float] = {}
        self._parts = Reassembly()
        self._strangers: dict[str, list[tuple[int, Arrived]]] = {}
        self._stranger_count = 0

    # What the owner says

    def open(self, rid: str, now_ns: int) -> list[Event]:
        """Begin a request; gives back what had already arrived for it."""
        if rid in self._requests or rid in self._ended:
            return []
        self._requests[rid] = _Request(touched_ns=now_ns)
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
        for key in [key for key in self._outstanding if key[1] == rid]:
            self._settle(key)
        for queue in self._waiting.values():
            kept = [frame for frame in queue if frame.rid != rid]
            queue.clear()
            queue.extend(kept)
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
        parts = parts_of(len(payload))
        for part in range(parts):
            begin = part * PART_BYTES
            piece = payload if parts == 1 else memoryview(payload)[begin : begin + PART_BYTES]
            self._waiting[to].append(
                Outstanding(to, kind, rid, step, n, dtype, shape, part, parts, piece, digest_of(piece))
            )
        self._fill(to, now_ns)

    def idle_since_ns(self, rid: str) -> int | None:
        """When this request last had something arrive here; None when it is not open."""
        request = self._requests.get(rid)
        return None if request is None else request.touched_ns

    @property
    def quiet(self) -> bool:
        """Nothing is waiting to be acknowledged, sent or put together."""
        return not (self._outstanding or self._parts or self._strangers or any(self._waiting.values()))

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
        expected_kind = "token" if plan.is_entry else "hidden"
        if header.kind != expected_kind or sender != plan.upstream or header.step < 0 or header.n < 1:
            return self._drop("wrong_stage")
        return self._data(header, frame.payload, sender, now_ns)

    def tick(self, now_ns: int) -> None:
        """Repeat what is due and let go of what waited too long. Call it every few tens of milliseconds."""
        for key, frame in list(self._outstanding.items()):
            if frame.kind == "control" and now_ns - frame.first_sent_ns > GIVE_UP_NS:
                self._settle(key)
                self._fill(frame.peer, now_ns)
                self.count["given_up"] += 1
            elif now_ns >= frame.due_ns:
                frame.rto_ns = min(2 * frame.rto_ns, max(MAX_RTO_NS, frame.rto_ns))
                self.count["retransmitted"] += 1
                self._transmit(frame, now_ns)
        self.count["reassembly_expired"] += self._parts.expire(now_ns)
        for rid, early in list(self._strangers.items()):
            if now_ns - early[0][0] > STRANGER_TTL_NS:
                del self._strangers[rid]
                self._stranger_count -= len(early)
                self.count["unknown_request"] += len(early)
                first = early[0][1]
                self._reply("nack", first.sender, rid, first.step, 0, b'{"reason":"unknown_request"}')

    # Sending

    def _fill(self, peer: int, now_ns: int) -> None:
        queue = self._waiting[peer]
        while queue and self._in_flight[peer] < self._credits:
            frame = queue.popleft()
            rtt = self._rtt_ns.get(peer)
            if frame.kind == "control":
                frame.rto_ns = CONTROL_RTO_NS
            else:
                frame.rto_ns = FIRST_RTO_NS if rtt is None else max(MIN_RTO_NS, int(3 * rtt))
            self._in_flight[peer] += 1
            self._outstanding[(peer, frame.rid, frame.step, frame.part)] = frame
            frame.first_sent_ns = now_ns
            self._transmit(frame, now_ns)

    def _transmit(self, frame: Outstanding, now_ns: int) -> None:
        plan = self.plan
        header = Header(
            VERSION, frame.kind, plan.pool_id, plan.epoch, frame.rid, frame.step, frame.n, frame.attempt,
            plan.my_key, plan.key(frame.peer), frame.dtype, frame.shape, frame.part, frame.parts,
            frame.digest, self._wall_ns(), self._credits - self._in_flight[frame.peer], frame.sig,
        )  # fmt: skip
        if not frame.sig:
            frame.sig = self._receipt_key.sign(statement(header))
            header = replace(header, sig=frame.sig)
        frame.attempt += 1
        frame.last_sent_ns = now_ns
        frame.due_ns = now_ns + frame.rto_ns
        self.count["sent"] += 1
        self.outgoing.append((frame.peer, encode(header, frame.payload)))

    def _reply(self, kind: Kind, to: int, rid: str, step: int, part: int, payload: bytes) -> None:
        plan = self.plan
        header = Header(
            VERSION, kind, plan.pool_id, plan.epoch, rid, step, part, 0, plan.my_key, plan.key(to), "json",
            (len(payload),), 0, 1, digest_of(payload), self._wall_ns(), self._credits - self._in_flight[to],
        )  # fmt: skip
        header = replace(header, sig=self._receipt_key.sign(statement(header)))
        self.count["sent"] += 1
        self.count["acks" if kind == "ack" else "nacks"] += 1
        self.outgoing.append((to, encode(header, payload)))

    def _nack_version(self, raw: bytes, mesh_sender: str) -> None:
        address = address_of(raw)
        if address is None or address.pool != self.plan.pool_id:
            return
        if not same_sender(address.from_, mesh_sender):
            return
        sender = self.plan.stage_of(address.from_)
        if sender is not None and sender != self.plan.me:
            self._reply("nack", sender, address.rid, 0, 0, b'{"reason":"unknown_version","speaks":[1]}')

    # Acknowledgements

    def _settle(self, key: _Key) -> Outstanding | None:
        frame = self._outstanding.pop(key, None)
        if frame is not None:
            self._in_flight[frame.peer] -= 1
        return frame

    def _measure(self, frame: Outstanding, now_ns: int) -> None:
        if frame.attempt == 1:  # of a repeated frame nobody knows which copy was answered (Karn)
            sample = now_ns - frame.first_sent_ns
            old = self._rtt_ns.get(frame.peer)
            self._rtt_ns[frame.peer] = sample if old is None else old + (sample - old) / 8

    def _acknowledged(
        self, header: Header, payload: bytes | memoryview, sender: int, now_ns: int
    ) -> list[Event]:
        frame = self._settle((sender, header.rid, header.step, header.n))
        if frame is None:
            return self._drop("late_ack")
        self._fill(sender, now_ns)
        if frame.kind == "control":
            return [Confirmed(sender, header.rid, header.step, bytes(payload))]
        return []

    def _effect(self, rid: str, step: int, now_ns: int) -> None:
        """What came for `step` shows that earlier results (at the entry: that of `step` too) were used."""
        peer = self.plan.downstream
        last = step if self.plan.is_entry else step - 1
        done = [key for key in self._outstanding if key[0] == peer and key[1] == rid and 0 <= key[2] <= last]
        for key in done:
            frame = self._settle(key)
            if frame is not None:
                self._measure(frame, now_ns)
        if done:
            self._fill(peer, now_ns)

    # Receiving

    def _drop(self, reason: str) -> list[Event]:
        self.count[reason] += 1
        return []

    def _remember_end(self, rid: str) -> None:
        self._ended[rid] = None
        while len(self._ended) > TOMBSTONES:
            self._ended.popitem(last=False)

    def confirm(self, to: int, rid: str, step: int, payload: bytes) -> None:
        """Acknowledge a control frame that arrived, with a few words; repeats of it get the same answer."""
        self._control_seen[(to, rid, step)] = payload
        while len(self._control_seen) > TOMBSTONES:
            self._control_seen.popitem(last=False)
        self._reply("ack", to, rid, step, 0, payload)

    def _control(self, header: Header, payload: bytes | memoryview, sender: int) -> list[Event]:
        if header.parts != 1 or header.step >= 0 or (sender != 0 and header.step != FAIL):
            return self._drop("wrong_stage")
        said = self._control_seen.get((sender, header.rid, header.step))
        if said is not None:
            self._reply("ack", sender, header.rid, header.step, 0, said)
            return self._drop("duplicate")
        if header.step == OPEN and header.rid in self._ended:
            self._reply("ack", sender, header.rid, header.step, 0, b"")
            return self._drop("ended")
        return [self._arrived(header, bytes(payload), sender)]

    def _arrived(self, header: Header, payload: bytes | memoryview, sender: int) -> Arrived:
        hop = self._wall_ns() - header.sent_ns
        return Arrived(
            header.kind, sender, header.rid, header.step, header.n, header.dtype, header.shape, payload, hop
        )

    def _data(self, header: Header, payload: bytes | memoryview, sender: int, now_ns: int) -> list[Event]:
        rid, request = header.rid, self._requests.get(header.rid)
        if request is None and rid in self._ended:
            self._reply("ack", sender, rid, header.step, header.part, b"")
            return self._drop("ended")
        if request is not None:
            request.touched_ns = now_ns
            if header.step < request.expected or header.step in request.held:
                self._repeated(header, sender, now_ns)
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
            if header.credit <= LOW_CREDIT or len(payload) > ACK_AT_ONCE_BYTES:
                self._reply("ack", sender, rid, header.step, header.part, b"")
        arrived = self._arrived(header, payload, sender)
        if request is None:
            return self._stranger(arrived, now_ns)
        return self._in_order(arrived, now_ns)

    def _repeated(self, header: Header, sender: int, now_ns: int) -> None:
        """A step that was already taken: say so, and repeat its result if nobody has confirmed that yet."""
        self._reply("ack", sender, header.rid, header.step, header.part, b"")
        for key, frame in list(self._outstanding.items()):
            if key[1] == header.rid and key[2] == header.step and now_ns - frame.last_sent_ns > RESEND_GAP_NS:
                self.count["retransmitted"] += 1
                self._transmit(frame, now_ns)

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
            self._effect(arrived.rid, following.step, now_ns)
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
        self._reply("ack", sender, header.rid, header.step, header.part, b"")
        return whole
