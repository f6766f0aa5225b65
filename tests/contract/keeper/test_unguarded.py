"""When a fact counts as taken back: another block stands in its place, or its own does not come for long."""

from events.chain import ChainRef
from services.chain import anvil
from services.chain.logs import Mark
from services.chain.rpc import Rpc
from services.keeper.unguarded import LAG_S, Unguarded


async def fact_in(rpc: Rpc, height: int) -> ChainRef:
    block = await rpc.block(height)
    return ChainRef(anvil.CHAIN_ID, block.number, block.hash, block.timestamp, "0x" + "0e" * 32, 0)


async def mark_of(rpc: Rpc, height: int) -> Mark:
    return Mark(height, (await rpc.block(height)).hash)


async def test_a_fact_is_looked_at_until_a_mark_stands_behind_it() -> None:
    async with anvil.running() as rpc:
        await rpc.ask("anvil_mine", hex(5))
        unguarded = Unguarded()
        unguarded.add("a", fact := await fact_in(rpc, 5))
        assert await unguarded.gone(rpc, anvil.CHAIN_ID, await mark_of(rpc, 4)) == []
        await rpc.ask("anvil_rollback", 1)
        await rpc.ask("anvil_mine", hex(1), hex(1000))
        assert await unguarded.gone(rpc, anvil.CHAIN_ID, await mark_of(rpc, 4), "another") == []
        assert await unguarded.gone(rpc, 16602, await mark_of(rpc, 4)) == []
        assert await unguarded.gone(rpc, anvil.CHAIN_ID, await mark_of(rpc, 4), "a") == [("a", fact)]
        unguarded.forget(fact)
        unguarded.add("a", await fact_in(rpc, 5))
        assert await unguarded.gone(rpc, anvil.CHAIN_ID, await mark_of(rpc, 5)) == []
        await rpc.ask("anvil_rollback", 1)
        await rpc.ask("anvil_mine", hex(1), hex(2000))
        assert await unguarded.gone(rpc, anvil.CHAIN_ID, await mark_of(rpc, 4)) == []


async def test_a_block_that_a_node_does_not_have_yet_is_not_one_that_was_taken_back() -> None:
    now = 0.0
    async with anvil.running() as rpc:
        await rpc.ask("anvil_mine", hex(5))
        unguarded = Unguarded(clock=lambda: now)
        late = replace_height(await fact_in(rpc, 5), 6)
        unguarded.add("a", late)
        assert await unguarded.gone(rpc, anvil.CHAIN_ID, await mark_of(rpc, 5)) == []
        now += LAG_S - 1
        assert await unguarded.gone(rpc, anvil.CHAIN_ID, await mark_of(rpc, 5)) == []
        now += 1
        assert await unguarded.gone(rpc, anvil.CHAIN_ID, await mark_of(rpc, 5)) == [("a", late)]


def replace_height(at: ChainRef, height: int) -> ChainRef:
    return ChainRef(at.chain_id, height, at.block_hash, at.block_unix_s, at.tx, at.log_index)
