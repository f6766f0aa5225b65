"""A worker that is stopped in the middle of a paid answer: attestors notice, prove it and vote."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from events.ids import slash_id_of
from services.agent import Agent, AnswerFailed, Spoken
from services.chain.rpc import connected
from services.demo_money import Market, manifest_of
from services.gateway_rest import client as rest_client
from tests.e2e.network import LABELS, POOL, Network, network

pytestmark = pytest.mark.long
PRICE_WEI_PER_S = 50 * 10**12
WINDOW_S = 12
WITHIN_S = 90.0


async def shown(net: Network, slash_id: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The breach, once it is as it has to be."""
    deadline = time.monotonic() + WITHIN_S
    async with rest_client(net.settings.public_url, net.operator) as rest:
        while True:
            answer = await rest.get(f"/slashes/{slash_id}")
            if answer.status_code == 200 and holds(answer.json()):
                return dict(answer.json())
            assert time.monotonic() < deadline, answer.text
            await asyncio.sleep(0.2)


async def asked_until_stopped(agent: Agent, worker: int) -> None:
    """The worker is stopped at the answer's first piece."""
    asked = [{"role": "user", "content": "Tell me a story."}]
    async for _ in agent.ask(asked, Spoken(), max_tokens=200):
        os.kill(worker, signal.SIGSTOP)


async def test_a_worker_stopped_in_a_paid_answer_is_voted_on(tmp_path: Path) -> None:
    state = tmp_path / "state"
    async with network(state, price_wei_per_s=PRICE_WEI_PER_S, local_probe_window_s=WINDOW_S) as net:
        await net.stack.add_verifiers()
        entries = {entry.name: entry.identity.pid for entry in net.stack.supervisor.entries()}
        worker = entries[f"worker-{LABELS[-1]}"]
        [node] = [shard for shard in net.pool["shards"] if shard["first_layer"] > 0]
        async with (
            rest_client(net.settings.public_url, net.operator) as rest,
            connected(net.settings.chain_rpc_url or "") as rpc,
        ):
            row = (await rest.get(f"/nodes/{node['node_id']}")).json()
            market = Market(net.settings, POOL, rpc, manifest_of(net.settings), rest, Console(stderr=True))
            agent = await market.agent("a payer")
            try:
                with pytest.raises(AnswerFailed):
                    await asked_until_stopped(agent, worker)
                session_id = str(agent.session_id)
                slash_id = slash_id_of(session_id, row["payout_wallet"], "stall")
                proven = await shown(net, slash_id, lambda one: one["quorum"] is not None)
            finally:
                os.kill(worker, signal.SIGCONT)
    assert proven["report"]["reporter"] == "node.lost"
    assert proven["report"]["node_id"] == node["node_id"]
    assert len(proven["quorum"]["attestors"]) >= proven["report"]["quorum"] == 2
    assert proven["quorum"]["breach"]["failed_probes"] >= proven["report"]["least_probes"]
