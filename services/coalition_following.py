"""Keeps a priced pool payable: whenever another plan serves, its operators' epoch is opened on the chain.

Decides when, and what is waited for; `services.coalition_opening` opens. Also a process of its own:
`python -m services.coalition_following --pool ID`, which the local stack runs for its pool.
"""

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import httpx
import structlog

from services.chain.manifest import NotDeployed
from services.chain.rpc import CallReverted, ChainAway, RpcRefused
from services.chain.sender import SendRefused
from services.chain.transactions import GasAboveCap, ReceiptOverdue
from services.coalition_opening import (
    CoalitionNotOpened,
    CoalitionOutOfReach,
    CoalitionRunFailed,
    Say,
    open_coalition,
)
from services.database import ENGINE_AWAY
from services.gateway_rest import GatewayRefused, checked, client
from services.logging import configure
from services.node_keys import PAYOUT_KEY_FILE
from services.patience import Patience
from services.settings import Settings
from services.stack.client import operator_token
from services.until_stopped import until_stopped

LOOK_EVERY_S = 1.0
LONGEST_PAUSE_S = 5.0
LONGEST_PAUSE_OF_A_RUN_S = 60.0
"""A run that failed costs gas and an entry in the log each time that it is tried."""
FOR_GOOD = {
    "coalition_differs", "coalition_terms_refused", "invalid_api_key", "missing_api_key", "operator_only",
    "pool_is_free", "pool_unknown",
}  # fmt: skip
"""Refusals of the gateway that no waiting cures."""
AWAY = (
    httpx.TransportError, ChainAway, RpcRefused, CallReverted, NotDeployed, SendRefused, GasAboveCap,
    ReceiptOverdue, *ENGINE_AWAY,
)  # fmt: skip
WAITED_FOR = (CoalitionNotOpened, GatewayRefused, *AWAY)

Step = Literal["look", "open", "wait", "end"]
log = structlog.get_logger("coalition")


def step_of(pool: Mapping[str, Any]) -> Step:
    """What a pool as the gateway shows it asks for.

    "wait": no plan serves, and one that is being loaded may never do so.
    """
    if pool["status"] == "retired":
        return "end"
    if pool["serving_epoch"] is None:
        return "wait"
    return "look" if pool["paid_epoch"] == pool["serving_epoch"] else "open"


def longest_pause_s(failure: Exception) -> float | None:
    """Of the pauses in which it is waited for what `failure` says is missing; None: no waiting brings it."""
    if isinstance(failure, CoalitionOutOfReach):
        return None
    if isinstance(failure, GatewayRefused) and failure.refusal in FOR_GOOD:
        return None
    return LONGEST_PAUSE_OF_A_RUN_S if isinstance(failure, CoalitionRunFailed) else LONGEST_PAUSE_S


async def wait_out(failure: Exception, patience: Patience) -> None:
    """Raises it when no waiting can help."""
    longest_s = longest_pause_s(failure)
    if longest_s is None:
        raise failure
    await patience.wait(f"waiting: {str(failure) or type(failure).__name__}", longest_s)


async def follow_plan(
    settings: Settings,
    operator_token: str,
    pool_id: str,
    node_dirs: Callable[[], Sequence[Path]],
    opened: Callable[[Mapping[str, Any]], None],
    *,
    terms_file: Path | None = None,
    say: Say = lambda _: None,
) -> None:
    """Until the pool is retired. `opened` gets the pool as the gateway shows it, after each opening.

    `node_dirs` is asked anew each time. Whatever is missing is said once, and waited for. Raises
    CoalitionNotOpened and GatewayRefused when no waiting can help.
    """

    async def open_now() -> Mapping[str, Any]:
        return await open_coalition(
            settings, operator_token, pool_id, node_dirs(), terms_file=terms_file, say=say
        )

    async with client(settings.public_url, operator_token) as rest:

        async def look() -> Mapping[str, Any]:
            return checked(await rest.get(f"/pools/{pool_id}"))

        await _follow(look, open_now, opened, Patience(say))


async def _follow(
    look: Callable[[], Awaitable[Mapping[str, Any]]],
    open_now: Callable[[], Awaitable[Mapping[str, Any]]],
    opened: Callable[[Mapping[str, Any]], None],
    patience: Patience,
) -> None:
    paid: int | None = None
    while True:
        try:
            pool = await look()
            step = step_of(pool)
            if step == "open" or (step == "look" and pool["paid_epoch"] != paid):
                pool = await open_now()
                step = step_of(pool)
                if pool["paid_epoch"] != paid:
                    paid = pool["paid_epoch"]
                    opened(pool)
        except WAITED_FOR as failure:
            await wait_out(failure, patience)
            continue
        if step == "end":
            patience.say(f"pool {pool['pool_id']} is retired")
            return
        if step == "wait":
            await patience.wait("waiting: no plan of the pool serves", LOOK_EVERY_S)
            continue
        patience.over()
        await asyncio.sleep(LOOK_EVERY_S)


async def run(settings: Settings, pool_id: str) -> None:
    """Until SIGTERM, SIGINT or the pool's retirement; payout keys are those of the stack's own nodes."""

    def node_dirs() -> list[Path]:
        return sorted(path.parent for path in (settings.state_dir / "nodes").glob(f"*/{PAYOUT_KEY_FILE}"))

    def opened(pool: Mapping[str, Any]) -> None:
        told = {name: pool[name] for name in ("pool_id", "coalition", "paid_epoch", "chain_epoch")}
        log.info("paid_by_epoch", **told)

    async with operator_token(settings, "coalition follower") as token:
        log.info("ready", pool_id=pool_id)
        following = follow_plan(
            settings, token, pool_id, node_dirs, opened, say=lambda text: log.info("coalition", what=text)
        )
        await until_stopped(following)
    log.info("stopped")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m services.coalition_following", description=__doc__)
    parser.add_argument("--pool", required=True, help="the pool's id")
    arguments = parser.parse_args()
    settings = Settings()
    configure(settings.log_level)
    asyncio.run(run(settings, arguments.pool))


if __name__ == "__main__":
    main()
