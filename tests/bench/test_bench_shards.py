"""`computepool bench shards` runs and says what it promises; its figures are judged elsewhere."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_quick_run_prints_every_figure_in_one_json_object_last(tmp_path: Path) -> None:
    environment = os.environ | {"COMPUTEPOOL_STATE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "services.cli", "bench", "shards", "--json", "--quick"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=570, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    for suffix in ("", "_stock"):
        assert found[f"ratio_vs_generate_2{suffix}"] > 0
        assert len(found[f"ratio_vs_generate_2{suffix}_rounds"]) == found[f"samples{suffix}"] == 2
        assert found[f"tokens{suffix}"] == 2 * 24
        assert found[f"frames_received{suffix}"] >= 2 * found[f"tokens{suffix}"]
    hops = ("ours", "stock", "poll", "poll_full")
    assert found["hop_samples"] == dict.fromkeys(hops, 10)
    assert min(found["hop_ms_p50_8k"], found["hop_ms_p50_8k_stock"]) > 0
