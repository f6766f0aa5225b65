"""Who waits until a block is known waits no longer when the chain has taken that block back."""

import asyncio

from services.chain import anvil
from services.chain.rpc import Rpc
from services.keeper.progress import LOOK_EVERY_S, Progress

WITHIN_S = 20.0


async def waiting_for(rpc: Rpc, read: int) -> "tuple[Progress, asyncio.Task[None]]":
    """The chain has ten blocks, and of these so many are read."""
    await rpc.ask("anvil_mine", hex(10))
    progress = Progress(rpc)
    await progress.reached(read)
    passing = asyncio.create_task(progress.passed(10))
    await asyncio.sleep(2 * LOOK_EVERY_S)
    assert not passing.done()
    return progress, passing


async def test_a_block_is_passed_when_it_is_read() -> None:
    async with anvil.running() as rpc:
        progress, passing = await waiting_for(rpc, 7)
        await progress.reached(10)
        async with asyncio.timeout(WITHIN_S):
            await passing


async def test_nobody_waits_for_a_block_that_was_taken_back_before_it_was_read() -> None:
    async with anvil.running() as rpc:
        progress, passing = await waiting_for(rpc, 7)
        await rpc.ask("anvil_rollback", 3)
        await rpc.ask("evm_mine")
        await progress.reached(8)
        async with asyncio.timeout(WITHIN_S):
            await passing
