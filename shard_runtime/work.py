"""What a stage keeps of one request: its KV, its clocks, timings and ledger; knows nothing of frames."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

import msgspec

from shard_runtime.kv import KvSlot
from shard_runtime.messages import HopTiming, Sampling
from shard_runtime.receipts import NodeReceipts, SegmentHashes, SegmentReceipt, Terms

SAMPLES = 4096
MOST_RECEIPTS = 2_000
"""Of all stages together in one report, some 700 KB; stages beyond it are left out."""


class Ended(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A stage's answer to END."""

    timing: HopTiming
    receipts: tuple[SegmentReceipt, ...] = ()


@dataclass(frozen=True, slots=True)
class Ledger:
    """Of a paid request. `hashes` is the compute thread's."""

    terms: Terms
    hashes: SegmentHashes


@dataclass(slots=True)
class Work:
    """One open request on this stage."""

    sampling: Sampling
    ledger: Ledger | None = None
    kv: KvSlot | None = None
    early: list[Callable[[], None]] = field(default_factory=list)
    """Steps that came before there was a KV slot."""
    compute_ns: list[int] = field(default_factory=list)
    hop_ns: list[int] = field(default_factory=list)
    waiting_since_ns: int | None = None
    """At the entry: since when the ring owes a token."""
    patience_ns: int = 0
    opened_ns: int = field(default_factory=time.monotonic_ns)

    def computed(self, compute_ns: int) -> None:
        if len(self.compute_ns) < SAMPLES:
            self.compute_ns.append(compute_ns)

    def hopped(self, hop_ns: int) -> None:
        if len(self.hop_ns) < SAMPLES:
            self.hop_ns.append(hop_ns)


class Timings:
    """What the stages of a ring say of ended requests, kept until the entry has passed it on."""

    def __init__(self, node_ids: tuple[str, ...]) -> None:
        self._node_ids = node_ids
        self._told: dict[str, dict[int, Ended]] = {}
        self._ledgers: dict[str, Ledger | None] = {}

    def of(self, stage: int, work: Work | None) -> HopTiming:
        """Medians of one request's steps on this stage."""
        compute_ns, hop_ns = ([], []) if work is None else (work.compute_ns, work.hop_ns)
        return HopTiming(
            self._node_ids[stage],
            round(median(compute_ns) / 1e6, 4) if compute_ns else 0.0,
            round(median(hop_ns) / 1e6, 4) if hop_ns else 0.0,
        )

    def begin(self, rid: str, stage: int, work: Work) -> None:
        """A request ended here, at the entry; the others will say theirs."""
        self._told[rid] = {stage: Ended(self.of(stage, work))}
        self._ledgers[rid] = work.ledger

    def told(self, rid: str, stage: int, said: bytes | memoryview) -> None:
        if rid not in self._told:
            return
        try:
            ended = msgspec.json.decode(said, type=Ended)
        except msgspec.DecodeError:
            ended = Ended(self.of(stage, None))
        self._told[rid][stage] = ended

    def hops(self, rid: str) -> tuple[HopTiming, ...]:
        """Of the stages that have confirmed the request's end so far, in ring order."""
        told = self._told.get(rid, {})
        return tuple(told[stage].timing for stage in sorted(told))

    def ledger(self, rid: str) -> Ledger | None:
        """The entry's own, of a paid request that ended."""
        return self._ledgers.get(rid)

    def receipts(self, rid: str, own: NodeReceipts) -> tuple[NodeReceipts, ...]:
        """`own` and those that the others gave so far, in ring order; of more than could be, none."""
        given, left = [own], MOST_RECEIPTS - len(own.receipts)
        for stage, ended in sorted(self._told.get(rid, {}).items()):
            if 0 < len(ended.receipts) <= min(left, len(own.receipts)):
                given.append(NodeReceipts(self._node_ids[stage], ended.receipts))
                left -= len(ended.receipts)
        return tuple(given)

    def complete(self, rid: str) -> bool:
        return len(self._told.get(rid, {})) == len(self._node_ids)

    def forget(self, rid: str) -> None:
        self._told.pop(rid, None)
        self._ledgers.pop(rid, None)
