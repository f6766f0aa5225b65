"""The one chain that a runner knows, and patience with it. Knows no contract."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog

from services.chain.networks import Network
from services.chain.rpc import ChainAway, Rpc
from services.keeper.runner.actions.step import Means, Step

T = TypeVar("T")
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0
log = structlog.get_logger("runner")


@dataclass(frozen=True)
class Chain:
    rpc: Rpc
    network: Network


def chain_of(step: Step, means: Means) -> Chain | None:
    """None when the step names another chain (`network`, a chain id), or the runner has none."""
    if means.rpc is None or means.network is None or step.said("network") != str(means.network.chain_id):
        return None
    return Chain(means.rpc, means.network)


async def patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """The answer, whenever the chain is there again: that it is away says nothing about the workflow."""
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            return await ask()
        except ChainAway as away:
            log.warning("chain_away", why=str(away))
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
