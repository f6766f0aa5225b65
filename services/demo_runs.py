"""The demo's transitions side by side: the event that asked, the run, and what it sent to the chain."""

import asyncio
import time
from typing import Any

from services.demo_money import Check, Market
from services.gateway_rest import checked

WANTED = ("propose", "activate-and-pool", "stream-start", "stream-stop", "handle-breach")


async def shows_runs(market: Market, check: Check, wanted: tuple[str, ...] = WANTED) -> None:
    """Once every run has ended: one row for each workflow's first run, and a claim about all of them."""
    deadline = time.monotonic() + 60
    while True:
        runs: list[dict[str, Any]] = checked(await market.rest.get("/runs", params={"limit": 1000}))["items"]
        open_ = [run for run in runs if run["status"] not in ("confirmed", "failed")]
        if not open_ or time.monotonic() > deadline:
            break
        await asyncio.sleep(0.2)
    confirmed = [run for run in reversed(runs) if run["status"] == "confirmed"]
    mined = 0
    for name in wanted:
        of_it = [run for run in confirmed if run["workflow"] == name]
        for run in of_it if name == "handle-breach" else of_it[:1]:
            whole = checked(await market.rest.get(f"/runs/{run['id']}"))
            for sent in whole["transactions"]:
                receipt = await market.rpc.receipt(sent["tx"])
                mined += receipt is not None and receipt.succeeded
                who = f"event {run['idempotency_key']}  run {run['id']}"
                market.out.print(f"{name}, {sent['node_id']}: {who}  {sent['tx']}", soft_wrap=True)
    ran = {run["workflow"] for run in confirmed}
    told = f"{len(confirmed)} runs confirmed, {len(open_)} open; {mined} of these transactions on the chain"
    check("every transition was a keeper run, and is on the chain", ran >= set(wanted) and not open_, told)
