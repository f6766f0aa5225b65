"""A real anvil for tests: empty, or with everything deployed, on a free port, its time in the test's hand.

Knows nothing of what is tested.
"""

import contextlib
from collections.abc import AsyncIterator

from services.chain import anvil, manifest
from services.chain.contracts import plan_of
from services.chain.manifest import Manifest
from services.chain.networks import Network, network_of
from services.chain.rpc import Rpc

LOCAL: Network = network_of(anvil.CHAIN_ID)


@contextlib.asynccontextmanager
async def deployed_chain() -> AsyncIterator[tuple[Rpc, Manifest]]:
    """From the saved state, so it takes a moment; a block for each transaction and none between."""
    source = await anvil.saved(plan_of(anvil.dev_account().address))
    async with anvil.running("--load-state", str(source / anvil.STATE_FILE)) as rpc:
        yield rpc, manifest.read(source / anvil.MANIFEST_FILE)


async def mine_at(rpc: Rpc, timestamp: int) -> None:
    """A block with exactly this timestamp (seconds), later than the newest one's."""
    await rpc.ask("evm_setNextBlockTimestamp", timestamp)
    await rpc.ask("evm_mine")


async def next_at(rpc: Rpc, timestamp: int) -> None:
    """The next block, which the next transaction makes, gets this timestamp."""
    await rpc.ask("evm_setNextBlockTimestamp", timestamp)
