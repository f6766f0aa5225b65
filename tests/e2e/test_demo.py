"""The demo as its user runs it: one command, its exit code, and a stack that is gone afterwards."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from services.stack import register
from services.stack.node import ROOT

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]


async def test_the_demo_proves_its_claims_and_leaves_nothing_behind(tmp_path: Path) -> None:
    child = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("computepool")),
        "demo",
        cwd=ROOT,
        env={**os.environ, "COMPUTEPOOL_STATE_DIR": str(tmp_path)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await child.communicate()
    told = out.decode()
    assert child.returncode == 0, told
    assert "all claims hold" in told
    assert "FALSE" not in told
    assert told.count("  true  ") == 20, told
    assert "wei_drift 0\n" in told
    record = register.read(tmp_path / "demo")
    assert record.phase == "stopped"
    assert not [entry for entry in record.processes if entry.state() == "running"]
