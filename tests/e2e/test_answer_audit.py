"""One lie in a paid answer: its payer finds it, attestors compute it again, and its author's bond pays."""

import asyncio
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from services.agent import Agent, Spoken
from services.chain.rpc import connected
from services.demo_money import Market, is_settled, manifest_of
from services.gateway_rest import client as rest_client
from services.stack.node import ROOT, worker_environment
from tests.e2e.network import LABELS, MODEL, POOL, Network, network

pytestmark = pytest.mark.long
PRICE_WEI_PER_S = 50 * 10**12
LIES_AT = 70
TOKENS = 96
WITHIN_S = 120.0


async def cli(net: Network, *words: str) -> tuple[int, Any]:
    """Exit code, and what the command line prints as JSON."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.cli", *words, "--json"),
        cwd=ROOT,
        env={
            **worker_environment(),
            "COMPUTEPOOL_GATEWAY_URL": net.settings.public_url,
            "COMPUTEPOOL_TOKEN": net.operator,
        },
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(WITHIN_S):
        out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, json.loads(out or b"null")


async def shown(market: Market, slash_id: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The breach, once it is as it has to be."""
    deadline = time.monotonic() + WITHIN_S
    while True:
        answer = await market.rest.get(f"/slashes/{slash_id}")
        if answer.status_code == 200 and holds(answer.json()):
            return dict(answer.json())
        assert time.monotonic() < deadline, answer.text
        await asyncio.sleep(0.2)


async def transcript_of(agent: Agent, path: Path) -> None:
    spoken, asked = Spoken(), [{"role": "user", "content": "Tell me a story."}]
    async for _ in agent.ask(asked, spoken, max_completion_tokens=TOKENS, temperature=1, transcript=True):
        pass
    assert spoken.transcript is not None
    path.write_bytes(msgspec.json.encode(spoken.transcript))


async def test_a_lie_about_one_output_costs_its_author_and_nobody_else(tmp_path: Path) -> None:
    file, models = tmp_path / "answer.json", str(MODEL.parent)
    async with (
        network(
            tmp_path / "state",
            price_wei_per_s=PRICE_WEI_PER_S,
            deterministic=True,
            lies={LABELS[-1]: f"output:{LIES_AT}"},
            local_dispute_window_s=2,
        ) as net,
        rest_client(net.settings.public_url, net.operator) as rest,
        connected(net.settings.chain_rpc_url or "") as rpc,
    ):
        await net.stack.add_verifiers((MODEL.parent,))
        market = Market(net.settings, POOL, rpc, manifest_of(net.settings), rest, Console(stderr=True))
        agent = await market.agent("a payer")
        await transcript_of(agent, file)
        session_id = str(agent.session_id)
        await agent.settle()
        honest, liar = (shard["node_id"] for shard in sorted(net.pool["shards"], key=_first_layer))

        code, audited = await cli(net, "audit", "answer", str(file), "--models", models)
        assert code == 1
        assert {one["node_id"]: one["found"] for one in audited["nodes"]} == {honest: "agrees", liar: "lied"}

        report = ("--kind", "wrong_output", "--transcript", str(file))
        code, accused = await cli(net, "slash", "report", session_id, honest, *report)
        assert code == 0
        cleared = await shown(market, accused["slash_id"], lambda one: bool(one["stage"] == "rejected"))
        assert len(cleared["votes"]) == 2, "with two of three dissents no quorum is left"
        assert {(one["verdict"], one["reason"]) for one in cleared["votes"]} == {
            ("dissent", "receipts_agree")
        }
        assert cleared["claim_id"] is None

        code, reported = await cli(net, "slash", "report", session_id, liar, *report)
        assert code == 0
        done = await shown(market, reported["slash_id"], lambda one: bool(one["stage"] == "executed"))
        assert [vote["verdict"] for vote in done["votes"]].count("breach") >= done["report"]["quorum"] == 2
        [executed] = [one for one in done["timeline"] if one["type"] == "slash.executed.v1"]
        assert executed["to_payer_micro"] > 0
        row = await market.row(session_id, is_settled)
        assert agent.payer is not None
        assert executed["payer"].lower() == agent.payer.account.address.lower()
        assert row["status"] == "settled"


def _first_layer(shard: dict[str, Any]) -> int:
    return int(shard["first_layer"])
