"""Peak memory of loading and running half of a ~300 M parameter model, over the bytes of that half."""

import json
import os
import subprocess
import sys
from pathlib import Path

from shard_runtime.weights import manifest_of
from tests.exact.models import make_model

CHILD = """
import json, resource, sys
from pathlib import Path
import torch
from shard_runtime.slices import Slice
torch.set_num_threads(1)
def resident(): return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
def peak(): return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if "VmHWM" in line)
big, warm, first, end, digest = sys.argv[1:]
tiny = Slice.load(Path(warm), 0, 3, "float32", max_context=64)
tiny.step(torch.tensor([3, 4, 5]), tiny.new_kv())
before = resident()
piece = Slice.load(Path(big), int(first), int(end), "float32", max_context=64, expect_digest=digest)
kv = piece.new_kv()
for tokens in (8, 1, 1):
    piece.step(torch.arange(tokens) if piece.is_entry else torch.randn(tokens, piece.d_model), kv)
print(json.dumps({"peak_bytes": peak() - before, "slice_bytes": piece.slice_bytes}))
"""


def measure_memory(home: Path) -> dict[str, object]:
    """`rss_over_slice` is the worse of the two halves."""
    big = make_model(
        home / "big", "llama", layers=24, hidden=1024, intermediate=2816, heads=16, kv_heads=8, vocab=16_000,
        tied=True, eos=False,
    )  # fmt: skip
    warm = make_model(home / "warm", "llama", layers=3)
    digest = manifest_of(big).digest
    halves = []
    for first, end in ((0, 12), (12, 24)):
        arguments = [sys.executable, "-c", CHILD, str(big), str(warm), str(first), str(end), digest]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
        said = subprocess.run(arguments, capture_output=True, check=True, env=environment, timeout=300).stdout
        halves.append(json.loads(said.splitlines()[-1]))
    ratios = [round(half["peak_bytes"] / half["slice_bytes"], 3) for half in halves]
    return {
        "rss_over_slice": max(ratios),
        "rss_over_slice_each": ratios,
        "slice_bytes": [half["slice_bytes"] for half in halves],
    }
