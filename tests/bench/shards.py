"""What sharding costs: two processes over the mesh against one, in one run. Prints one JSON object last.

`python -m tests.bench.shards [--quick]`, or `computepool bench shards`. One thread per worker; every ratio is
between medians of rounds that alternate; results are kept in `tests/bench/results/`.
"""

import asyncio
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.hops import measure_hops
from tests.bench.memory import measure_memory
from tests.bench.reference import Reference
from tests.bench.report import report
from tests.exact.models import make_model
from tests.outcome import Outcome
from tests.ring import Ring, ring

Say = Callable[[str], None]
DIFFERENT = "the ring does not say what generate says"
PROMPT = [(11 * number) % 300 + 3 for number in range(64)]


def _decode_ms(moments: list[float]) -> list[float]:
    """Milliseconds from each token to the next; the first token belongs to the prefill."""
    return [1000 * (later - earlier) for earlier, later in pairwise(moments)]


def _moments(outcome: Outcome) -> list[float]:
    """When each token came; tokens that came together share the moment."""
    return [when - outcome.asked_s for when, count in outcome.arrivals for _ in range(count)]


async def _frames(shards: Ring) -> tuple[int, int]:
    totals = [await node.metrics() for node in shards.nodes]
    sent, received = "axl_frames_sent_total", "axl_frames_received_total"
    return int(sum(total[sent] for total in totals)), int(sum(total[received] for total in totals))


@dataclass(frozen=True)
class Size:
    """Of one run: a model of `layers` x `hidden`, and so many rounds of so many tokens."""

    layers: int = 12
    hidden: int = 512
    rounds: int = 7
    tokens: int = 64


QUICK = Size(layers=4, hidden=128, rounds=2, tokens=24)
"""Shows that it runs; its figures say nothing."""


async def measure_ratios(home: Path, say: Say, size: Size) -> dict[str, object]:
    """Two shards and `generate` take turns, greedy, fp32: first over our mesh nodes, then over stock ones."""
    model_dir = make_model(
        home / "model", "llama", layers=size.layers, hidden=size.hidden, intermediate=size.hidden * 11 // 4,
        heads=8, kv_heads=8, vocab=2048, tied=True, eos=False,
    )  # fmt: skip
    reference = await Reference.start(model_dir)
    try:
        say("two shards against generate")
        found = await _taking_turns(model_dir, reference, say, size, "", {})
        say("the same over stock mesh nodes")
        found |= await _taking_turns(model_dir, reference, say, size, "_stock", {"stock": True})
    finally:
        await reference.stop()
    return found


async def _taking_turns(
    model_dir: Path, reference: Reference, say: Say, size: Size, suffix: str, mesh_options: dict[str, Any]
) -> dict[str, object]:
    ring_ms: list[list[float]] = []
    alone_ms: list[list[float]] = []
    ttft_ms: list[float] = []
    tokens = 0
    async with ring(2, mesh_options=mesh_options) as shards:
        pool_id = await shards.load(model_dir, [size.layers // 2, size.layers], max_context=256)
        for _ in range(2):
            warm = await shards.generate(pool_id, PROMPT, max_tokens=16)
        assert warm.ids == (await reference.generate(PROMPT, 16))[0], DIFFERENT
        before = await _frames(shards)
        for number in range(size.rounds):
            outcome = await shards.generate(pool_id, PROMPT, max_tokens=size.tokens)
            ids, moments = await reference.generate(PROMPT, size.tokens)
            assert outcome.ids == ids, DIFFERENT
            tokens += len(ids)
            times = _moments(outcome)
            ttft_ms.append(1000 * times[0])
            ring_ms.append(_decode_ms(times))
            alone_ms.append(_decode_ms(moments))
            both = f"ring {_mean(ring_ms[-1]):.2f}, alone {_mean(alone_ms[-1]):.2f}"
            say(f"round {number + 1}: {both} ms a token")
        after = await _frames(shards)
        pids = {
            "workers": [worker.pid for worker in shards.workers],
            "mesh_nodes": [node.process.pid for node in shards.nodes if node.process is not None],
            "reference": reference.pid,
        }
    ring_rounds, alone_rounds = [_mean(ms) for ms in ring_ms], [_mean(ms) for ms in alone_ms]
    ratios = [round(alone / rung, 3) for alone, rung in zip(alone_rounds, ring_rounds, strict=True)]
    found = {
        "ratio_vs_generate_2": round(median(alone_rounds) / median(ring_rounds), 3),
        "ms_per_token_ring": round(median(ring_rounds), 3),
        "ms_per_token_generate": round(median(alone_rounds), 3),
        "ttft_ms": round(median(ttft_ms), 2),
        "hops": [[hop.compute_ms, hop.hop_in_ms] for hop in outcome.hops],
        "pids": pids,
        "samples": size.rounds,
        "tokens": tokens,
        "frames_sent": after[0] - before[0],
        "frames_received": after[1] - before[1],
    }
    named: dict[str, object] = {f"{name}{suffix}": value for name, value in found.items()}
    return named | {f"ratio_vs_generate_2{suffix}_rounds": ratios}


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


async def measure(say: Say, quick: bool = False) -> dict[str, object]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        home = Path(folder)
        found = await measure_ratios(home, say, QUICK if quick else Size())
        say("hops")
        found |= await (measure_hops(1, 10) if quick else measure_hops())
        if not quick:
            say("memory")
            found |= await asyncio.to_thread(measure_memory, home)
    return found


def main(json: bool = False, quick: bool = False) -> None:
    """Print what is measured as it comes (to stderr with `json`), one JSON object last on stdout; keep it."""
    report("shards", measure, json, quick)


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)
