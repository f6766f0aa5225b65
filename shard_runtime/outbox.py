"""What one stage has to send: a few frames per peer at once, each kept and repeated until it is settled.

Knows nothing of what arrives, but for the acknowledgements it is told of, and reads no clock. Who repeats:
nobody can tell a lost frame from one whose effect is late, so in a ring that stands still one stage alone
asks, and its repeated step passes along those who have it until it comes to the one who has not. That is the
entry, or the stage that last acknowledged its input in so many words; all others are patient.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Callable

from msgspec.structs import replace

from shard_runtime.frames import VERSION, Header, Kind, digest_of, encode
from shard_runtime.outstanding import Outstanding
from shard_runtime.plan import Plan
from shard_runtime.rtt import RoundTrip
from shard_runtime.signing import ReceiptKey, statement

FIRST_RTO_NS = 1_000_000_000
"""Before anything was measured, and for steps of more than one token, which take longer than what was."""
FIRST_CONTROL_RTO_NS = 300_000_000
"""Control frames are confirmed before anything is computed, so silence means loss."""
MIN_RTO_NS = 100_000_000
MAX_RTO_NS = 1_000_000_000
LONGEST_RTO_NS = 2_000_000_000
"""Also after measurements on a machine so busy that they scatter over seconds."""
PATIENT = 4
"""How much longer a stage waits when another asks."""
GIVE_UP_NS = 120_000_000_000
"""A peer that has not confirmed a control frame by then is gone, and what it held with it."""
RESEND_GAP_NS = 20_000_000

_Key = tuple[int, str, int, int]
"""(peer stage, rid, step, part)"""


class Outbox:
    """Frames of one stage to all of its peers. `count` is the owner's."""

    def __init__(
        self, plan: Plan, wall_ns: Callable[[], int], receipt_key: ReceiptKey, count: Counter[str],
        credits: int,
    ) -> None:  # fmt: skip
        self.outgoing: deque[tuple[int, bytes]] = deque()
        """(stage, frame bytes), to be taken and sent by the owner."""
        self._plan, self._wall_ns, self._receipt_key = plan, wall_ns, receipt_key
        self._count, self._credits = count, credits
        self._outstanding: dict[_Key, Outstanding] = {}
        self._waiting: dict[int, deque[Outstanding]] = {stage: deque() for stage in plan.others}
        self._in_flight: Counter[int] = Counter()
        self._rings: defaultdict[int, RoundTrip] = defaultdict(RoundTrip)
        self._controls: defaultdict[int, RoundTrip] = defaultdict(RoundTrip)

    @property
    def empty(self) -> bool:
        return not (self._outstanding or any(self._waiting.values()))

    def put(self, frame: Outstanding, now_ns: int) -> None:
        """Send it as soon as the peer's credits allow."""
        self._waiting[frame.peer].append(frame)
        self._fill(frame.peer, now_ns)

    def reply(self, kind: Kind, to: int, rid: str, step: int, part: int, payload: bytes) -> None:
        """Send at once and once only: an `ack` or a `nack`."""
        plan = self._plan
        header = Header(
            VERSION, kind, plan.pool_id, plan.epoch, rid, step, part, 0, plan.my_key, plan.key(to), "json",
            (len(payload),), 0, 1, digest_of(payload), self._wall_ns(), self._credits - self._in_flight[to],
        )  # fmt: skip
        header = replace(header, sig=self._receipt_key.sign(statement(header)))
        self._count["sent"] += 1
        self._count["acks" if kind == "ack" else "nacks"] += 1
        self.outgoing.append((to, encode(header, payload)))

    def acknowledged(self, peer: int, rid: str, step: int, part: int, now_ns: int) -> Outstanding | None:
        """The peer says that it has this frame; None when it is not outstanding."""
        frame = self._settle((peer, rid, step, part))
        if frame is not None:
            if frame.kind == "control" and frame.attempt == 1:
                self._controls[peer].measured(now_ns - frame.first_sent_ns)
            self._fill(peer, now_ns)
        return frame

    def effect(self, peer: int, rid: str, last: int, now_ns: int) -> None:
        """All steps of `rid` up to `last` were used by those they were for."""
        done = [key for key in self._outstanding if key[0] == peer and key[1] == rid and 0 <= key[2] <= last]
        for key in done:
            frame = self._settle(key)
            if frame is not None and frame.attempt == 1 and frame.n == 1:
                self._rings[peer].measured(now_ns - frame.first_sent_ns)
        if done:
            self._fill(peer, now_ns)

    def again(self, rid: str, step: int, now_ns: int) -> bool:
        """Repeat the result of a step, unless that has just been done. False when it is not on the way."""
        found = False
        for key, frame in self._outstanding.items():
            if key[1] == rid and key[2] == step:
                found = True
                if now_ns - frame.last_sent_ns > RESEND_GAP_NS:
                    self._repeat(frame, now_ns)
        return found

    def forget(self, rid: str) -> None:
        """Send nothing more of a request."""
        for key in [key for key in self._outstanding if key[1] == rid]:
            self._settle(key)
        for queue in self._waiting.values():
            kept = [frame for frame in queue if frame.rid != rid]
            queue.clear()
            queue.extend(kept)

    def tick(self, now_ns: int) -> None:
        """Repeat what is due; give up control frames that nobody confirms."""
        for key, frame in list(self._outstanding.items()):
            if frame.kind == "control" and now_ns - frame.first_sent_ns > GIVE_UP_NS:
                self._settle(key)
                self._fill(frame.peer, now_ns)
                self._count["given_up"] += 1
            elif now_ns >= frame.due_ns:
                frame.rto_ns = min(2 * frame.rto_ns, max(MAX_RTO_NS, frame.rto_ns))
                self._repeat(frame, now_ns)

    def _fill(self, peer: int, now_ns: int) -> None:
        queue = self._waiting[peer]
        while queue and self._in_flight[peer] < self._credits:
            frame = queue.popleft()
            frame.rto_ns = self._rto_ns(frame)
            self._in_flight[peer] += 1
            self._outstanding[(peer, frame.rid, frame.step, frame.part)] = frame
            frame.first_sent_ns = now_ns
            self._transmit(frame, now_ns)

    def _rto_ns(self, frame: Outstanding) -> int:
        if frame.kind == "control":
            control_ns = self._controls[frame.peer].patience_ns(MIN_RTO_NS, FIRST_CONTROL_RTO_NS)
            return min(control_ns, LONGEST_RTO_NS)
        rto_ns = min(self._rings[frame.peer].patience_ns(MIN_RTO_NS, FIRST_RTO_NS), LONGEST_RTO_NS)
        if frame.n > 1:
            rto_ns = max(rto_ns, FIRST_RTO_NS)
        return PATIENT * rto_ns if frame.patient else rto_ns

    def _repeat(self, frame: Outstanding, now_ns: int) -> None:
        self._count["retransmitted"] += 1
        self._transmit(frame, now_ns)

    def _transmit(self, frame: Outstanding, now_ns: int) -> None:
        plan = self._plan
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
        self._count["sent"] += 1
        self.outgoing.append((frame.peer, encode(header, frame.payload)))

    def _settle(self, key: _Key) -> Outstanding | None:
        frame = self._outstanding.pop(key, None)
        if frame is not None:
            self._in_flight[frame.peer] -= 1
        return frame
