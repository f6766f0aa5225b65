"""The demo's breach: an operator's worker is stopped in the middle of a paid answer, and pays for it."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from events.ids import slash_id_of
from services.agent import AnswerFailed, Spoken
from services.chain.artifacts import artifact
from services.chain.contract import Contract
from services.demo_money import PURSE_MICRO, Check, Market, is_settled
from services.gateway_rest import checked
from services.payer import Payer

PROBE_WINDOW_S = 6
DISPUTE_WINDOW_S = 4
WITHIN_S = 90.0


async def an_operator_stalls(
    market: Market, worker: int, pool: dict[str, Any], prompt: str, check: Check
) -> None:
    """`worker`: the process of the ring's last shard, which is stopped by SIGSTOP and let go at the end."""
    shard = max(pool["shards"], key=lambda one: int(one["first_layer"]))
    operator = checked(await market.rest.get(f"/nodes/{shard['node_id']}"))["payout_wallet"]
    agent = await market.agent("a payer")
    try:
        try:
            async for _ in agent.ask([{"role": "user", "content": prompt}], Spoken(), temperature=2):
                os.kill(worker, signal.SIGSTOP)
        except AnswerFailed as failed:
            market.out.print(f"  its client was told: {failed}", soft_wrap=True)
        session_id = str(agent.session_id)
        slash_id = slash_id_of(session_id, operator, "stall")
        voted = await _shown(market, slash_id, lambda one: one["quorum"] is not None)
        attestors = (voted.get("quorum") or {}).get("attestors", ())
        told = f"{len(attestors)} of {len(voted['report']['attestors'])} attestors" if voted else slash_id
        check("attestors probed the silent node, judged the evidence and voted", len(attestors) > 1, told)
        await agent.settle()
    finally:
        os.kill(worker, signal.SIGCONT)
    done = await _shown(market, slash_id, lambda one: one["stage"] == "executed")
    _show(market, done)
    row = await market.row(session_id, is_settled)
    await _check_paid(market, agent.payer, row, done, check)
    evicted = Contract(artifact("Coalition"), pool["coalition"])
    out = bool(await evicted.read(market.rpc, "isEvicted", operator))
    check("the operator that stalled is evicted from the coalition", out, operator)


async def _shown(market: Market, slash_id: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The breach once it is as wanted, or as it is after so long; empty: there is none."""
    deadline, found = time.monotonic() + WITHIN_S, dict[str, Any]()
    while time.monotonic() < deadline:
        answer = await market.rest.get(f"/slashes/{slash_id}")
        found = checked(answer) if answer.status_code != 404 else {}
        if found and holds(found):
            break
        await asyncio.sleep(0.2)
    return found


def _show(market: Market, case: dict[str, Any]) -> None:
    for entry in case.get("timeline", ()):
        about = entry.get("attestor") or (entry.get("at") or {}).get("tx") or entry.get("reporter") or ""
        market.out.print(f"  {entry['position']:>8}  {entry['type']:<28} {about}", soft_wrap=True)


async def _check_paid(
    market: Market, payer: Payer | None, row: dict[str, Any], case: dict[str, Any], check: Check
) -> None:
    """Its refund and the slash stand in the payer's wallet, to the micro-USDC."""
    executed = next((one for one in case.get("timeline", ()) if one["type"] == "slash.executed.v1"), None)
    if executed is None:
        check("the stall was slashed on the chain", False, str(case.get("stage")))
        return
    assert payer is not None
    held, refund = await market.usdc_of(payer.account.address), int(row.get("refund_wei") or 0) // 10**12
    told = f"{executed['to_payer_micro']} micro-USDC to the payer, {executed['to_treasury_micro']} elsewhere"
    right = held == PURSE_MICRO - payer.spent_micro + refund + int(executed["to_payer_micro"])
    check("the stall was slashed on the chain, and the payer holds it", right and is_settled(row), told)
