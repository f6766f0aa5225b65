"""What paying costs: a paid first token against a free one in one run, gas, seconds paid beyond the answer.

`computepool bench pay`. A whole local stack with the small story model: one free and one priced pool of one
node each, anvil with a block at once for every transaction and one every second besides.
"""

import asyncio
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from sqlalchemy import text

from services import credentials
from services.agent import Agent, Spoken
from services.chain import abi
from services.chain.rpc import connected
from services.chain.wallets import wallet
from services.coalition_opening import open_coalition
from services.demo_money import PRICE_WEI_PER_S, Market, is_settled, manifest_of
from services.facilitator import shapes, verify
from services.gateway_rest import checked
from services.gateway_rest import client as rest_client
from services.local_pool import form_pool
from services.money_audit import audit
from services.settings import Settings
from services.stack.node import ROOT
from services.stack.stack import Stack, database_url, stack_of
from tests.bench.report import report

Say = Callable[[str], None]
MODEL = ROOT / "tests" / "models" / "tales"
PROMPT = [{"role": "user", "content": "Tell me a story about a brave fox named Mira."}]
TOKENS = 48


async def measure(say: Say, quick: bool = False) -> dict[str, object]:
    rounds, at_once = (2, 4) if quick else (15, 24)
    with tempfile.TemporaryDirectory(prefix="bench-pay-") as folder:
        settings = Settings(
            state_dir=Path(folder) / "state",
            gateway_port=0,
            model_dirs=(MODEL.parent,),
            database_url=None,
            nats_url=None,
            chain_rpc_url=None,
        )
        async with stack_of(settings) as stack:
            operator = (await credentials.create(database_url(stack.settings), "operator", "bench"))[1]
            key = (await credentials.create(database_url(stack.settings), "api_key", "bench"))[1]
            await stack.add_nodes(("free", "paid"), operator, (MODEL.parent,))
            nodes = stack.settings.state_dir / "nodes"
            where = (stack.settings.public_url, operator)
            await form_pool(*where, [nodes / "free"], MODEL, name="free")
            price = str(PRICE_WEI_PER_S)
            pool = await form_pool(
                *where, [nodes / "paid"], MODEL, name="paid", kv_slots=8, price_wei_per_s=price
            )  # fmt: skip
            await open_coalition(stack.settings, operator, pool["pool_id"], [nodes / "paid"])
            async with rest_client(*where) as rest, connected(stack.settings.chain_rpc_url or "") as rpc:
                from rich.console import Console

                contracts = manifest_of(stack.settings)
                market = Market(stack.settings, "paid", rpc, contracts, rest, Console(stderr=True))
                return await _figures(stack, market, key, rounds, at_once, say)


async def _figures(
    stack: Stack, market: Market, key: str, rounds: int, at_once: int, say: Say
) -> dict[str, object]:
    free_ms, paid_ms, verify_ms, served = [], [], [], {}
    for number in range(rounds):
        free_ms.append(await _first_token_ms(Agent(stack.settings.public_url, "free", key=key)))
        agent = await market.agent(f"payer {number}")
        verify_ms.append(await _verify_ms(market, agent))
        begun = time.monotonic()
        paid_ms.append(await _paid_first_token_ms(agent))
        served[str(agent.session_id)] = time.monotonic() - begun
        await agent.settle()
        say(f"round {number + 1}: first token free {free_ms[-1]:.0f} ms, paid {paid_ms[-1]:.0f} ms")
    say(f"{at_once} sessions bought at once")
    agents = [await market.agent(f"buyer {number}") for number in range(at_once)]
    begun = time.monotonic()
    await asyncio.gather(*(agent.buy() for agent in agents))
    took_s = time.monotonic() - begun
    ids = [str(agent.session_id) for agent in agents]
    await asyncio.gather(*(agent.settle() for agent in agents))
    for session_id in (*served, *ids):
        await market.row(session_id, is_settled, within_s=120)
    audited, _ = await audit(stack.settings)
    billed = {line.session: line.billed_seconds for line in audited.lines}
    over = sorted(billed[session_id] - seconds for session_id, seconds in served.items())
    gas = await _gas(stack, market)
    overhead = [paid - free for paid, free in zip(paid_ms, free_ms, strict=True)]
    return {
        "settle_overhead_ms": round(median(overhead), 1),
        "settle_overhead_ms_max": round(max(overhead), 1),
        "first_token_free_ms": round(median(free_ms), 1),
        "first_token_paid_ms": round(median(paid_ms), 1),
        "verify_ms": round(median(verify_ms), 1),
        "sessions_per_s": round(at_once / took_s, 2),
        "overbilled_seconds_p95": round(over[min(len(over) - 1, int(0.95 * len(over)))], 2),
        "rounds": rounds,
        "sessions": len(billed),
        "wei_drift": audited.wei_drift,
        "sound": audited.sound,
        **gas,
    }


async def _first_token_ms(agent: Agent) -> float:
    """From the request to its first token; the answer is heard to its end."""
    begun, first = time.monotonic(), 0.0
    async for _ in agent.ask(PROMPT, Spoken(), temperature=0, max_completion_tokens=TOKENS):
        first = first or time.monotonic() - begun
    return 1000 * first


async def _paid_first_token_ms(agent: Agent) -> float:
    """From the 402 to the first token, as a stock client does it: the voucher goes with the request."""
    assert agent.payer is not None
    body = {
        "model": agent.model, "messages": PROMPT, "stream": True, "temperature": 0,
        "max_completion_tokens": TOKENS,
    }  # fmt: skip
    async with agent.client() as client:
        asked = await client.post("/v1/chat/completions", json=body)
        begun, first = time.monotonic(), 0.0
        offer = agent.payer.choose(shapes.from_header(asked.headers[shapes.REQUIRED], shapes.Required))
        headers = {shapes.SIGNATURE: shapes.as_header(agent.payer.sign(offer))}
        sent = client.build_request("POST", "/v1/chat/completions", json=body, headers=headers)
        answer = await client.send(sent, stream=True)
        if answer.is_error:
            await answer.aread()
            checked(answer)
        async for line in answer.aiter_lines():
            chunk = json.loads(line[6:]) if line.startswith("data: {") else {}
            if any((choice.get("delta") or {}).get("content") for choice in chunk.get("choices", ())):
                first = first or time.monotonic() - begun
        agent.session_id = answer.headers["x-computepool-session"]
        agent.key = answer.headers["x-computepool-session-key"]
        await answer.aclose()
    return 1000 * first


async def _verify_ms(market: Market, agent: Agent) -> float:
    assert agent.payer is not None
    async with httpx.AsyncClient(base_url=agent.gateway_url, trust_env=False) as client:
        asked = await client.post("/v1/chat/completions", json={"model": agent.model, "messages": PROMPT})
    offer = agent.payer.choose(shapes.from_header(asked.headers[shapes.REQUIRED], shapes.Required))
    payment = agent.payer.sign(offer)
    token = await verify.token_at(market.rpc, market.settings.chain_id, market.manifest.at("USDC"))
    begun = time.monotonic()
    await verify.verify(market.rpc, token, payment, offer)
    return 1000 * (time.monotonic() - begun)


async def _gas(stack: Stack, market: Market) -> dict[str, object]:
    """The dearest opening and closing of all sessions, from the controller's receipts."""
    controller = wallet(stack.settings, "controller").address
    engine = credentials.engine_of(database_url(stack.settings))
    try:
        async with engine.connect() as connection:
            statement = text(
                "SELECT hash, to_address, data FROM chain_transactions"
                " WHERE sender = :sender AND state = 'mined'"
            )
            rows = list(await connection.execute(statement, {"sender": controller}))
    finally:
        await engine.dispose()
    opening, closing = [], []
    factory = market.manifest.at("SessionEscrowFactory").lower()
    for row in rows:
        receipt: Any = await market.rpc.ask("eth_getTransactionReceipt", row.hash)
        used = int(receipt["gasUsed"], 16)
        if row.to_address.lower() == factory:
            opening.append(used)
        elif bytes(row.data)[:4] == abi.selector("close()"):
            closing.append(used)
    return {
        "gas_open": max(opening, default=0),
        "gas_close": max(closing, default=0),
        "gas_open_median": round(median(opening)) if opening else 0,
        "gas_close_median": round(median(closing)) if closing else 0,
    }


def main(json: bool = False, quick: bool = False) -> None:
    """Print what is measured as it comes (to stderr with `json`), one JSON object last on stdout; keep it."""
    report("pay", measure, json, quick)
