"""`computepool chain` as it is typed, against an anvil of its own: what it prints, writes and ends with."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from services.chain import anvil, manifest
from services.chain.rpc import Rpc
from services.stack.node import ROOT
from tests.anvil import deployed_chain

WITHIN_S = 120.0


@asynccontextmanager
async def typed(state_dir: Path, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CHAIN_")}
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.cli",
        "chain",
        *arguments,
        cwd=ROOT,
        env={**kept, "COMPUTEPOOL_STATE_DIR": str(state_dir)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


async def said(state_dir: Path, *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    async with typed(state_dir, *arguments) as child:
        out, err = await asyncio.wait_for(child.communicate(), WITHIN_S)
        assert child.returncode is not None
        return child.returncode, out.decode(), err.decode()


async def answer(state_dir: Path, *arguments: str) -> dict[str, Any]:
    code, out, err = await said(state_dir, *arguments, "--json")
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


async def test_deploy_says_each_step_once_and_verify_agrees(tmp_path: Path) -> None:
    async with anvil.running() as rpc:
        code, out, err = await said(tmp_path, "deploy", "--rpc", rpc.url)
        assert code == 0, err
        assert "create GDAv1" in err
        assert "manifest:" in out
        written = manifest.read(tmp_path / "chain" / "31337.json")
        verdict = await answer(tmp_path, "verify", "--quick", "--rpc", rpc.url)
        assert verdict["well"]
        await rpc.ask("anvil_setCode", written.at("USDCx"), "0x00")
        code, out, _ = await said(tmp_path, "verify", "--quick", "--rpc", rpc.url)
        assert code == 1
        assert "USDCx" in out
        assert "the code differs from byte 0 on" in out


async def test_another_chain_needs_a_key_and_real_money_needs_a_token(tmp_path: Path) -> None:
    key = tmp_path / "deployer.key"
    async with anvil.running(chain_id=16661) as rpc:
        key.write_text("not a key")
        code, _, err = await said(tmp_path, "deploy", "--rpc", rpc.url, "--key-file", str(key))
        assert (code, "key_needed" in err, "not a key" in err) == (1, True, False)
        key.write_text("0x" + "42" * 32 + "\n")
        code, _, err = await said(tmp_path, "deploy", "--rpc", rpc.url, "--key-file", str(key))
        assert (code, "usdc_needed" in err) == (1, True)
        code, _, err = await said(tmp_path, "verify", "--rpc", rpc.url)
        assert (code, "not_deployed" in err) == (1, True)


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_a_deployer_that_is_killed_again_and_again_leaves_the_same_deployment(tmp_path: Path) -> None:
    """SIGKILL after some random number of transactions, wherever it then is; the last run ends by itself."""
    draw, kills = Random(7), 0
    async with anvil.running() as rpc:
        while True:
            async with typed(tmp_path, "deploy", "--resume", "--json", "--rpc", rpc.url) as child:
                if await _ends_before(child, rpc, await _sent(rpc) + draw.randint(10, 24)):
                    assert child.returncode == 0
                    break
                child.send_signal(signal.SIGKILL)
                kills += 1
        killed = (tmp_path / "chain" / "31337.json").read_bytes()
    assert kills >= 2
    async with deployed_chain() as (_, whole):
        assert killed == whole.as_json()


async def _ends_before(child: asyncio.subprocess.Process, rpc: Rpc, transactions: int) -> bool:
    """True: it ended by itself; False: it has sent so many transactions and still runs."""
    while child.returncode is None:
        if await _sent(rpc) >= transactions:
            return False
        await asyncio.sleep(0.002)
    return True


async def _sent(rpc: Rpc) -> int:
    return await rpc.nonce(anvil.dev_account().address)
