"""`computepool bench keeper` runs and says what it promises; its figures are judged elsewhere."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_quick_run_prints_every_figure_in_one_json_object_last(tmp_path: Path) -> None:
    environment = os.environ | {"COMPUTEPOOL_STATE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "services.cli", "bench", "keeper", "--json", "--quick"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["rounds"], found["runs"]) == (3, 20)
    assert 0 < found["run_overhead_ms_p50"] <= found["run_overhead_ms_p95"]
    assert found["run_beside_rpc_ms_p50"] > 0
    assert found["runs_per_s"] > 0
