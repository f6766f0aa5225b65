"""An operator's consents to its nodes' seats in each later plan, in the one contract that it agreed to.

Signs for no other contract, for no seat but its own nodes', and no bond beyond a wallet's first one.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from services.chain.consents import bond_nonce
from services.coalition_following import LONGEST_PAUSE_S, LOOK_EVERY_S, WAITED_FOR, step_of, wait_out
from services.coalition_opening import Say, plan_of
from services.gateway_rest import checked, client
from services.patience import Patience
from services.seat_consenting import Consenting, ConsentNotGiven, consenting
from services.seat_signing import SignedSeat
from services.settings import Settings


async def follow_consents(
    settings: Settings,
    token: str,
    pool_id: str,
    node_dirs: Sequence[Path],
    terms_file: Path | None,
    agreed: str | None,
    given: Callable[[list[dict[str, Any]]], None],
    say: Say,
) -> None:
    """Until the pool is retired. `agreed`: the contract; None: the first that the terms lead to.

    `given` gets the gateway's answers, one for each node, after each time. Raises ConsentNotGiven when the
    terms lead elsewhere now, GatewayRefused when no waiting can help.
    """
    patience = Patience(say)
    last: tuple[int, tuple[SignedSeat, ...]] | None = None
    async with client(settings.public_url, token) as rest:
        while True:
            try:
                pool = checked(await rest.get(f"/pools/{pool_id}"))
                step = step_of(pool)
                if step == "end":
                    say(f"pool {pool_id} is retired")
                    return
                if step == "look":
                    patience.over()
                    await asyncio.sleep(LOOK_EVERY_S)
                    continue
                async with AsyncExitStack() as stack:
                    found = await consenting(stack, settings, token, pool_id, node_dirs, terms_file)
                    agreed = same_contract(found, agreed)
                    now = (plan_of(found.pool), found.signed)
                    why = unwanted(found) or "whoever opens the epoch has not done so yet"
                    if not unwanted(found) and now != last:
                        given(await found.give())
                        last = now
            except WAITED_FOR as failure:
                await wait_out(failure, patience)
                continue
            await patience.wait(f"waiting: {why}", LONGEST_PAUSE_S)


def same_contract(found: Consenting, agreed: str | None) -> str:
    """Raises ConsentNotGiven."""
    if agreed is not None and found.coalition.lower() != agreed.lower():
        raise ConsentNotGiven(f"the terms lead to {found.coalition} now; agreed was {agreed}")
    return found.coalition


def unwanted(found: Consenting) -> str:
    """Why nothing of it is signed without asking again; empty: it may be sent."""
    if not found.signed:
        return found.why_nothing
    for one in found.signed:
        first = bond_nonce(found.coalition, one.operator, 0)
        if one.bond is not None and one.bond.nonce != first:
            lacking = f"the bond of {one.operator} lacks {one.bond.micro / 10**6:.2f} USDC"
            return f"{lacking}, which is not signed without asking: operator consent without --follow"
    return ""
