"""A claim ends the coalition's epoch on a real anvil; the pool knows it until another opens, or a reorg."""

import pytest

from events import pool
from events.chain import ChainRef
from services.chain.coalitions import Seat
from services.coalition_opening import CoalitionNotOpened, check_evictions
from tests.aggregates import ulid
from tests.coalition_chain import BOND_MICRO, CoalitionChain
from tests.contract.keeper.test_breaches import (
    ACCUSED,
    HONEST,
    chain_of,
    decided,
    serving,
    stage,
    told_of_its_coalition,
)
from tests.keeping import House, house

POOL = ulid(500)


async def pays(here: House, holds: bool) -> pool.Forming:
    """The pool once it pays, or once it does not."""
    found: pool.Forming = await here.until("pool", POOL, lambda state: state.openings.over is not holds)
    return found


async def facts(here: House) -> list[str]:
    return [
        item.type.removeprefix("pool.coalition_")
        for item in await here.history()
        if item.aggregate_id == POOL and item.type.startswith("pool.coalition_")
    ]


async def reopened(here: House, chain_epoch: int) -> pool.CoalitionOpened:
    """The steward opens another epoch, as the gateway tells it."""
    chain = chain_of(here)
    await chain.open_epoch(chain_epoch)
    block = await chain.rpc.block()
    at = ChainRef(31337, block.number, block.hash, block.timestamp, "0x" + "0f" * 32, 0)
    gda_pool = str(await chain.contract.read(chain.rpc, "gdaPool"))
    opened = pool.CoalitionOpened(chain.coalition, 31337, 1, chain_epoch, gda_pool, at)
    await here.tell("pool", POOL, pool.OpenCoalition(opened))
    return opened


async def test_a_claim_ends_what_pays_the_pool_until_its_coalition_opens_another_epoch() -> None:
    """An epoch that another follows at once is no end; a keeper that starts again tells nothing twice."""
    async with house(CoalitionChain) as here:
        chain = chain_of(here)
        await told_of_its_coalition(here)
        async with here.keeping():
            await reopened(here, 2)
            key, paid = await serving(here, 830)
            await stage(here, await decided(here, key, paid), "claimed")
            (end,) = (await pays(here, False)).openings.ends
            assert end.chain_epoch == 2
            assert (await chain.rpc.block(end.at.block_number)).hash == end.at.block_hash
            assert int(str(await chain.contract.read(chain.rpc, "gdaPool")), 16) == 0
        seats = [Seat(one.address, 1, ulid(100 + n), one.address) for n, one in enumerate((HONEST, ACCUSED))]
        await check_evictions(chain.rpc, chain.contract, seats[:1])
        with pytest.raises(CoalitionNotOpened, match=f"{ACCUSED.address} of node {ulid(101)}"):
            await check_evictions(chain.rpc, chain.contract, seats)
        await chain.tell("readmit", ACCUSED.address)
        await chain.tell("bond", ACCUSED.address, BOND_MICRO)
        opened = await reopened(here, 3)
        async with here.keeping():
            state = await pays(here, True)
            assert state.openings.gda_pool_of(1) == opened.gda_pool
            await serving(here, 831)
        assert await facts(here) == ["opened.v1", "opened.v1", "ended.v1", "opened.v1"]


@pytest.mark.long
async def test_an_end_whose_block_is_taken_back_is_taken_back_and_may_come_again() -> None:
    async with house(CoalitionChain) as here, here.keeping():
        chain = chain_of(here)
        await told_of_its_coalition(here)
        snapshot = await chain.rpc.ask("evm_snapshot")
        await chain.tell("endEpoch")
        (first,) = (await pays(here, False)).openings.ends
        await chain.rpc.ask("evm_revert", snapshot)
        await chain.rpc.ask("anvil_mine", "0x3")
        state = await pays(here, True)
        assert state.openings.gda_pool_of(1) == chain.gda_pool
        await chain.tell("endEpoch")
        (again,) = (await pays(here, False)).openings.ends
        assert again.at != first.at
        assert await facts(here) == ["opened.v1", "ended.v1", "end_reverted.v1", "ended.v1"]
