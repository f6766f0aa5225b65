"""An operator leaves a priced pool, and nobody gives a command: the money follows the plan by itself."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from services.agent import Agent, Spoken
from services.chain.rpc import Rpc, connected
from services.demo_money import PRICE_WEI_PER_S, Market, is_settled, manifest_of
from services.join import accept
from services.leave import drain
from services.money_audit import audit
from services.node_keys import NodeKeys
from services.operator_income import Income, purse_of
from tests.contract.gateway_house import until
from tests.e2e.network import POOL, Network, network

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

ASK = [{"role": "user", "content": "Tell me a story about a brave fox named Mira."}]
SPARE = "west"
WITHIN_S = 120.0


async def answer(agent: Agent, tokens: int) -> int:
    """How many tokens of an answer came."""
    spoken = Spoken()
    async for _ in agent.ask(ASK, spoken, temperature=2.0, seed=1, max_completion_tokens=tokens):
        pass
    return spoken.tokens


async def incomes(net: Network, rpc: Rpc, coalition: str) -> dict[tuple[str, int], Income]:
    """(node's label, chain epoch) -> what its operator has got there; nobody withdraws in this test."""
    found: dict[tuple[str, int], Income] = {}
    for label in net.labels.values():
        wallet = NodeKeys.load_or_make(net.node_dir(label)).payout_wallet
        purse = await purse_of(rpc, manifest_of(net.settings), wallet, [(net.pool["pool_id"], coalition)])
        found |= {(label, income.chain_epoch): income for income in purse.incomes}
    return found


async def test_after_a_drain_the_new_operators_are_paid_without_a_command(tmp_path: Path) -> None:
    """Also although gateway, keeper and orchestrator were killed before, one after the other."""
    async with (
        network(tmp_path / "state", spares=(SPARE,), price_wei_per_s=PRICE_WEI_PER_S) as net,
        net.rest(net.operator) as rest,
        connected(net.settings.chain_rpc_url or "") as rpc,
    ):
        pool_id, url = net.pool["pool_id"], net.settings.public_url
        await net.stack.follow_plan(pool_id)
        for role in ("gateway", "keeper", "orchestrator"):
            await net.kill(role)
            await net.restart(role)
        await until(net.ready, 60)
        market = Market(net.settings, POOL, rpc, manifest_of(net.settings), rest, Console(stderr=True))
        old, sessions = await market.agent("before"), []
        await old.buy()
        sessions.append(str(old.session_id))
        moved = asyncio.Event()

        async def ask_on() -> None:
            while not moved.is_set():
                assert await answer(old, 120) > 0

        async def shown() -> dict[str, Any]:
            return dict((await rest.get(f"/pools/{pool_id}")).json())

        async def follows() -> bool:
            found = await shown()
            return bool(found["paid_epoch"] == found["serving_epoch"] == 2)

        async def pays_the_new() -> bool:
            paid = await incomes(net, rpc, net.pool["coalition"])
            return any(epoch == 2 and one.claimable_wei for (_, epoch), one in paid.items())

        asking = asyncio.create_task(ask_on())
        try:
            await accept(net.node_dir(SPARE), pool_id, url, net.operator)
            leaver = net.labels[net.node_ids[0]]
            left = await drain(net.node_dir(leaver), url, net.operator, "an upgrade", 90)
            assert left.still_in == ()
            await until(follows, WITHIN_S)
            await until(pays_the_new, WITHIN_S)
        finally:
            moved.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asking
        new = await market.agent("after")
        await new.buy()
        sessions.append(str(new.session_id))
        assert await answer(new, 24) > 0
        await asyncio.gather(old.settle(), new.settle())
        rows = [await market.row(session, is_settled, WITHIN_S) for session in sessions]
        assert all(map(is_settled, rows)), rows
        spent = [int(row["cap_wei"]) - int(row["refund_wei"]) for row in rows]

        now = await shown()
        units = {net.labels[shard["node_id"]]: shard["units"] for shard in now["shards"]}
        assert now["chain_epoch"] == 2
        assert set(units) == {SPARE, *(set(net.labels.values()) - {SPARE, leaver})}
        paid = await incomes(net, rpc, now["coalition"])
        of_epoch = {
            epoch: sum(one.claimable_wei for (_, at), one in paid.items() if at == epoch) for epoch in (1, 2)
        }
        assert sum(of_epoch.values()) == sum(spent)
        assert (leaver, 2) not in paid
        assert of_epoch[1] > 0
        assert of_epoch[2] > spent[1], "the session that was there before pays the new epoch, too"
        for label, share in units.items():
            assert paid[label, 2].claimable_wei == of_epoch[2] * share // 10_000
        report, compared = await audit(net.settings)
        assert (report.findings, report.wei_drift, compared) == ((), "0", True)
        assert report.sound
        assert [entry.name for entry in net.stack.supervisor.alive()].count("follower") == 1
