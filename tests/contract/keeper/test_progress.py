"""Who waits until a block is known waits no longer when the chain has taken that block back."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from services.chain import anvil
from services.chain.rpc import Rpc, connected
from services.keeper.progress import Progress
from tests.rpc_proxy import rpc_proxy

WITHIN_S = 20.0


@contextlib.asynccontextmanager
async def waiting_for_the_tenth() -> "AsyncIterator[tuple[Rpc, Progress, asyncio.Task[None]]]":
    """The chain has ten blocks, and of these seven are read."""
    async with (
        anvil.running() as rpc,
        rpc_proxy(int(rpc.url.rpartition(":")[2])) as proxy,
        connected(f"http://127.0.0.1:{proxy.port}") as through,
    ):
        await rpc.ask("anvil_mine", hex(10))
        progress = Progress(through)
        await progress.reached(7)
        passing = asyncio.create_task(progress.passed(10))
        async with asyncio.timeout(WITHIN_S):
            while proxy.asked < 3:
                await asyncio.sleep(0.01)
        assert not passing.done()
        yield rpc, progress, passing


async def test_a_block_is_passed_when_it_is_read() -> None:
    async with waiting_for_the_tenth() as (_, progress, passing):
        await progress.reached(10)
        async with asyncio.timeout(WITHIN_S):
            await passing


async def test_nobody_waits_for_a_block_that_was_taken_back_before_it_was_read() -> None:
    async with waiting_for_the_tenth() as (rpc, progress, passing):
        await rpc.ask("anvil_rollback", 3)
        await rpc.ask("evm_mine")
        await progress.reached(8)
        async with asyncio.timeout(WITHIN_S):
            await passing
