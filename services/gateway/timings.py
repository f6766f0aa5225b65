"""Where the time of one HTTP request went: its header, its JSON, and several generations as one; pure.

Knows nothing of clocks. The header follows the syntax of Server-Timing (W3C).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from shard_runtime.messages import HopTiming

HEADER = "x-computepool-timings"


@dataclass(frozen=True)
class Timings:
    """Milliseconds. `stages` in ring order: medians over a stage's steps.

    queue: waiting for a slot. ttft: from the request's arrival to the first token at the gateway. total: to
    the last. prefill, decode: at the entry node, from the command to the first token, and from that to the
    last.
    """

    queue_ms: float
    prefill_ms: float
    ttft_ms: float
    decode_ms: float
    total_ms: float
    stages: tuple[HopTiming, ...]

    def header(self) -> str:
        """`queue;dur=0.1, ..., stage0;dur=1.5;hop=0.4;desc="<node id>"`: dur is a stage's compute time."""
        totals = (
            ("queue", self.queue_ms),
            ("prefill", self.prefill_ms),
            ("ttft", self.ttft_ms),
            ("decode", self.decode_ms),
            ("total", self.total_ms),
        )
        said = [f"{name};dur={ms:.3f}" for name, ms in totals]
        for number, stage in enumerate(self.stages):
            said.append(
                f'stage{number};dur={stage.compute_ms:.3f};hop={stage.hop_in_ms:.3f};desc="{stage.node_id}"'
            )
        return ", ".join(said)

    def as_json(self) -> dict[str, Any]:
        """For the field `computepool.timings` of a stream's chunk."""
        return {
            "queue_ms": round(self.queue_ms, 3),
            "prefill_ms": round(self.prefill_ms, 3),
            "ttft_ms": round(self.ttft_ms, 3),
            "decode_ms": round(self.decode_ms, 3),
            "total_ms": round(self.total_ms, 3),
            "stages": [
                {"node_id": stage.node_id, "compute_ms": stage.compute_ms, "hop_in_ms": stage.hop_in_ms}
                for stage in self.stages
            ],
        }


def together(several: Sequence[Timings]) -> Timings:
    """Of one request with several prompts: the first token of all, sums of work, the stages' medians."""
    stages: dict[str, list[HopTiming]] = {}
    for one in several:
        for stage in one.stages:
            stages.setdefault(stage.node_id, []).append(stage)
    return Timings(
        queue_ms=min(one.queue_ms for one in several),
        prefill_ms=sum(one.prefill_ms for one in several),
        ttft_ms=min(one.ttft_ms for one in several),
        decode_ms=sum(one.decode_ms for one in several),
        total_ms=max(one.total_ms for one in several),
        stages=tuple(_median(same) for same in stages.values()),
    )


def _median(same: Sequence[HopTiming]) -> HopTiming:
    compute, hop = median(one.compute_ms for one in same), median(one.hop_in_ms for one in same)
    return HopTiming(same[0].node_id, compute, hop)
