"""The demo's money: clients with wallets of local play money, everything that can end a paid answer, and the
proof of every wei.

Plays payers and an operator through the public interfaces; knows nothing of how payments are carried out.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from eth_account import Account
from rich.console import Console
from rich.table import Table

from services import operator_income
from services.agent import Agent, AnswerFailed, Spoken
from services.chain import manifest, play_money
from services.chain.artifacts import artifact
from services.chain.contract import Contract
from services.chain.manifest import Manifest
from services.chain.rpc import Rpc
from services.facilitator.shapes import REQUIRED, Required, from_header
from services.gateway_rest import GatewayRefused, checked
from services.money_audit import audit
from services.node_keys import NodeKeys
from services.payer import Payer
from services.settings import Settings

PRICE_WEI_PER_S = 200_000_000_000_000
"""0.0002 USDC for a second of one request."""
DEPOSIT_S = 660
"""Superfluid's deposit and the escrow's margin: a voucher of so many seconds lets nothing flow."""
PURSE_MICRO = 10_000_000
Check = Callable[[str, bool, str], None]


@dataclass
class Market:
    """Where the demo's payers buy. `rest` has the operator's token."""

    settings: Settings
    pool: str
    rpc: Rpc
    manifest: Manifest
    rest: httpx.AsyncClient
    out: Console

    async def agent(self, name: str, **terms: Any) -> Agent:
        """A new payer with 10 USDC of play money and no coins for gas."""
        account = Account.create()
        await play_money.mint(self.rpc, self.manifest, account.address, PURSE_MICRO)
        network = f"eip155:{self.settings.chain_id}"
        payer = Payer(account, 2_000_000, frozenset({network}), frozenset({self.manifest.at("USDC")}))
        return Agent(self.settings.public_url, self.pool, payer, **terms)

    async def usdc_of(self, account: str) -> int:
        usdc = Contract(artifact("MockUSDC"), self.manifest.at("USDC"))
        return int(await usdc.read(self.rpc, "balanceOf", account))

    async def row(
        self, session_id: str, holds: Callable[[dict[str, Any]], bool], within_s: float = 60
    ) -> Any:
        """The session's read model once it is as wanted, or as it is after so long."""
        deadline = time.monotonic() + within_s
        while True:
            answer = await self.rest.get(f"/sessions/{session_id}")
            found = checked(answer) if answer.status_code != 404 else {}
            if (found and holds(found)) or time.monotonic() > deadline:
                return found
            await asyncio.sleep(0.1)


def is_settled(row: dict[str, Any]) -> bool:
    return bool(row.get("status") == "settled")


async def refused_without_payment(market: Market, check: Check) -> None:
    """The plain 402, as any x402 client sees it."""
    body = {"model": market.pool, "messages": [{"role": "user", "content": "Hello"}]}
    async with httpx.AsyncClient(base_url=market.settings.public_url, trust_env=False) as client:
        answer = await client.post("/v1/chat/completions", json=body)
    asked = from_header(answer.headers[REQUIRED], Required) if REQUIRED in answer.headers else None
    offer = asked.accepts[0] if asked is not None else None
    told = f"{offer.amount} micro-USDC to {offer.pay_to} on {offer.network}" if offer is not None else ""
    check("without a payment the answer is 402, with what is to be signed", answer.status_code == 402, told)


async def side_by_side(market: Market, prompts: tuple[str, str], check: Check) -> None:
    """Two sessions at once, one much shorter than the other."""
    short, long = await market.agent("short"), await market.agent("long")

    async def talk(agent: Agent, prompt: str, limit: int) -> Spoken:
        spoken = Spoken()
        messages = [{"role": "user", "content": prompt}]
        async for _ in agent.ask(messages, spoken, temperature=0, max_completion_tokens=limit):
            pass
        return spoken

    first, second = await asyncio.gather(talk(short, prompts[0], 8), talk(long, prompts[1], 160))
    ids = [str(agent.session_id) for agent in (short, long)]
    await asyncio.gather(short.settle(), long.settle())
    rows = [await market.row(session_id, is_settled) for session_id in ids]
    for agent, row in zip((short, long), rows, strict=True):
        await _check_refund(market, agent, row, check)
    tokens = f"{first.tokens} and {second.tokens} tokens"
    check("two sessions ran at once, each to its own end", 0 < first.tokens < second.tokens, tokens)


async def _check_refund(market: Market, agent: Agent, row: dict[str, Any], check: Check) -> None:
    assert agent.payer is not None
    held = await market.usdc_of(agent.payer.account.address)
    refund_micro = int(row.get("refund_wei") or 0) // 10**12
    paid = PURSE_MICRO - agent.payer.spent_micro + refund_micro
    told = f"{agent.payer.spent_micro} paid, {refund_micro} back, {held} held"
    check(
        "the payer holds what it did not pay for, to the micro-USDC", is_settled(row) and held == paid, told
    )


async def walks_away(market: Market, prompt: str, check: Check) -> None:
    """A client that disconnects in the middle of its answer: the money stops, and it can take the rest."""
    agent, spoken, pieces = await market.agent("gone"), Spoken(), 0
    answer = agent.ask([{"role": "user", "content": prompt}], spoken, temperature=0)
    async for _ in answer:
        pieces += 1
        if pieces == 5:
            break
    await answer.aclose()  # type: ignore[attr-defined]

    def ended(row: dict[str, Any]) -> bool:
        return any(item.get("finish_reason") for item in row.get("request_list", ()))

    row = await market.row(str(agent.session_id), ended)
    reasons = [item.get("finish_reason") for item in row.get("request_list", ())]
    check("a client that went away had its generation cancelled", reasons == ["cancelled"], str(reasons))
    session_id = str(agent.session_id)
    await agent.settle()
    await _check_refund(market, agent, await market.row(session_id, is_settled), check)


async def runs_dry(market: Market, prompt: str, check: Check) -> None:
    """An agent whose budget ends before its answer does: the stream is stopped before the money runs out."""
    budget, failure, row = PRICE_WEI_PER_S * (DEPOSIT_S + 1) // 10**12, "", {}
    for seed in range(16):  # a short answer may end before the money does: then another agent asks
        agent, spoken = await market.agent("poor", budget_micro=budget), Spoken()
        await agent.buy()
        session_id, agent.payer = str(agent.session_id), None
        try:
            async for _ in agent.ask([{"role": "user", "content": prompt}], spoken, temperature=2, seed=seed):
                pass
            await agent.settle()
        except (AnswerFailed, GatewayRefused) as failed:
            failure = str(failed)
        row = await market.row(session_id, is_settled)
        if failure:
            break
    told = f"after {len(spoken.text)} characters: {failure}"
    check(
        "a budget ended in the middle of an answer, and the session with it",
        bool(spoken.text and failure),
        told,
    )
    check("what the budget's session did not use came back", is_settled(row), f"{row.get('refund_wei')} wei")


async def operator_withdraws(market: Market, node_dir: Path, pool: dict[str, Any], check: Check) -> None:
    """What the stream brought becomes USDC in the operator's own wallet."""
    payout = NodeKeys.load_or_make(node_dir).payout
    where = [(str(pool["pool_id"]), str(pool["coalition"]))]
    before = await operator_income.purse_of(market.rpc, market.manifest, payout.address, where)
    earned = sum(income.claimable_wei for income in before.incomes)
    done = await operator_income.withdraw(market.rpc, market.manifest, payout, where)
    after = await operator_income.purse_of(market.rpc, market.manifest, payout.address, where)
    gained = after.usdc_micro - before.usdc_micro
    told = f"{gained} micro-USDC by {len(done)} transactions"
    check("an operator withdrew what it had earned", gained > 0 and gained * 10**12 <= earned, told)


async def accounts_balance(market: Market, check: Check) -> None:
    """`computepool audit money`, when everything that was told has arrived in the read model."""
    deadline = time.monotonic() + 60
    while True:
        report, compared = await audit(market.settings)
        if (report.sound and compared) or time.monotonic() > deadline:
            break
        await asyncio.sleep(0.5)
    table = Table("session", "state", "seconds", "voucher", "operators", "refund", box=None, pad_edge=False)
    for line in report.lines:
        wei = (_usdc(amount) for amount in (line.voucher_wei, line.operators_wei, line.refund_wei))
        table.add_row(line.session, line.state, str(line.billed_seconds), *wei)
    market.out.print(table)
    for finding in report.findings[:5]:
        market.out.print(f"  {finding.session} {finding.code}: {finding.detail}")
    told = f"{report.sessions} sessions, {report.billed_seconds} s, {report.operators} operators"
    sound = report.sound and compared and report.wei_drift == "0"
    check("voucher = operators + refund, in log, chain and read model, for every session", sound, told)
    market.out.print(f"  wei_drift {report.wei_drift}")


def _usdc(wei: str) -> str:
    return f"{int(wei) / 10**18:.6f}"


def manifest_of(settings: Settings) -> Manifest:
    return manifest.read(settings.manifest_of(settings.chain_id))
