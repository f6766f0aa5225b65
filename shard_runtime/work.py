"""What a stage keeps of one request: its KV, its clocks and its timings; knows nothing of frames."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

import msgspec

from shard_runtime.kv import KvSlot
from shard_runtime.messages import HopTiming, Sampling

SAMPLES = 4096


@dataclass(slots=True)
class Work:
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
        self._told: dict[str, dict[int, HopTiming]] = {}

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
        self._told[rid] = {stage: self.of(stage, work)}

    def told(self, rid: str, stage: int, said: bytes | memoryview) -> None:
        if rid not in self._told:
            return
        try:
            timing = msgspec.json.decode(said, type=HopTiming)
        except msgspec.DecodeError:
            timing = self.of(stage, None)
        self._told[rid][stage] = timing

    def hops(self, rid: str) -> tuple[HopTiming, ...]:
        """Of the stages that have confirmed the request's end so far, in ring order."""
        told = self._told.get(rid, {})
        return tuple(told[stage] for stage in sorted(told))

    def complete(self, rid: str) -> bool:
        return len(self._told.get(rid, {})) == len(self._node_ids)

    def forget(self, rid: str) -> None:
        self._told.pop(rid, None)
