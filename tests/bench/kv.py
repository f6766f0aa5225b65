"""What a moved KV costs: bytes out and in again against computing it anew, and the pause a client sees.

`python -m tests.bench.kv [--quick]`, or `computepool bench kv`. One thread; medians of rounds that alternate;
prints one JSON object last and keeps it in `tests/bench/results/`.
"""

import asyncio
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch

from shard_runtime.kv import KvSlot
from shard_runtime.moves import blocks
from shard_runtime.slices import Slice
from shard_runtime.weights import manifest_of
from tests.bench.report import report
from tests.exact.models import make_model
from tests.moving import Cast
from tests.ring import ring

TOKENS = 1035
ROUNDS = 9
DRAINS = 6
ANSWER = 160
PROMPT = [(11 * number) % 300 + 3 for number in range(64)]


def small_model(home: Path) -> Path:
    """~40 M parameters; 4 KV heads of 64, so that a slice of 6 layers has 12 288 bytes of KV a token."""
    return make_model(
        home / "small", "llama", layers=12, hidden=512, intermediate=1408, heads=8, kv_heads=4, vocab=2048,
        tied=True, eos=False,
    )  # fmt: skip


def export_import(slot: KvSlot, empty: KvSlot) -> float:
    """Milliseconds from one slot to bytes and into another, block by block as on the wire."""
    empty.truncate(0)
    begun = time.perf_counter()
    for first, count in blocks(slot.length, slot.bytes_per_token):
        empty.take_in(bytes(slot.export(first, count)), "float32", slot.block_shape(count), count)
    return 1000 * (time.perf_counter() - begun)


def measure_slice(model_dir: Path, rounds: int, tokens: int = TOKENS) -> dict[str, object]:
    """The exit slice of 6 layers, its KV moved and its stored input replayed in one prefill, in turns."""
    torch.set_num_threads(1)
    exit_ = Slice.load(model_dir, 6, 12, "float32", max_context=2048)
    hidden = torch.randn((tokens, exit_.d_model), generator=torch.manual_seed(5))
    slot, moved, replayed = exit_.new_kv(), exit_.new_kv(), exit_.new_kv()
    exit_.step(hidden, slot)
    moves, replays = [], []
    for _ in range(rounds + 1):  # the first of each only touches the memory
        moves.append(export_import(slot, moved))
        replayed.truncate(0)
        begun = time.perf_counter()
        exit_.step(hidden, replayed)
        replays.append(1000 * (time.perf_counter() - begun))
    kept = (..., slice(0, tokens), slice(None))
    assert torch.equal(slot.memory[kept], moved.memory[kept]), "a moved KV must be the KV, bit for bit"
    move_ms, replay_ms = median(moves[1:]), median(replays[1:])
    return {
        "export_import_ms_1k": round(move_ms, 3),
        "replay_ms_1k": round(replay_ms, 2),
        "kv_takeover_over_replay": round(replay_ms / move_ms, 1),
        "kv_bytes_1k": tokens * slot.bytes_per_token,
        "tokens": tokens,
        "rounds": rounds,
    }


async def measure_drains(model_dir: Path, drains: int, say: Any) -> dict[str, object]:
    """Entry and exit leave in turns, each in the middle of an answer; the gap in it that a client sees."""
    pauses, usual, moves_ms, moved_bytes = [], [], [], []
    digest = await asyncio.to_thread(lambda: manifest_of(model_dir).digest)
    async with ring(3) as shards:
        pool = Cast(shards, model_dir, [6, 12], digest, "float32", max_context=512)
        await pool.load((0, 1))
        spare, expected = 2, []
        for number in range(drains + 1):  # the first answer is not disturbed
            old, epoch = pool.members, pool.epoch
            leaver = old[number % 2]
            successor = await pool.prepare(leaver, spare)
            outcome = await pool.ask(PROMPT, max_tokens=ANSWER)
            if number == 0:
                await shards.ended(outcome)
                expected = outcome.ids
            else:
                await outcome.tokens(ANSWER // 4)
            await pool.drain(successor)
            await shards.ended(outcome)
            await pool.drained(epoch, old)
            spare = leaver
            assert outcome.ids == expected, "a drain must not change a token"
            moments = [when for when, count in outcome.arrivals if count]
            gaps = sorted(1000 * (later - earlier) for earlier, later in pairwise(moments))
            if number:
                [move] = pool.moves(outcome)
                pauses.append(gaps[-1])
                usual.append(median(gaps))
                moves_ms.append(move.move_ms)
                moved_bytes.append(move.kv_bytes)
                say(f"drain {number}: pause {gaps[-1]:.1f} ms, a token {median(gaps):.1f} ms")
        await shards.kv_free()
    return {
        "drain_pause_ms": round(median(pauses), 1),
        "drain_pause_ms_each": [round(pause, 1) for pause in pauses],
        "ms_per_token": round(median(usual), 2),
        "move_ms": median(moves_ms),
        "moved_bytes": round(median(moved_bytes)),
        "drains": drains,
    }


async def measure(say: Any, quick: bool = False) -> dict[str, object]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        model_dir = await asyncio.to_thread(small_model, Path(folder))
        say("a moved KV against a replay")
        found = await asyncio.to_thread(measure_slice, model_dir, 3 if quick else ROUNDS)
        say("drains in the middle of an answer")
        return found | await measure_drains(model_dir, 2 if quick else DRAINS, say)


def main(json: bool = False, quick: bool = False) -> None:
    """Print what is measured as it comes (to stderr with `json`), one JSON object last on stdout; keep it."""
    report("kv", measure, json, quick)


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)
