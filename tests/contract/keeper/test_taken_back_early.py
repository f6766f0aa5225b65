"""Facts that stand in the log before the keeper has read their block to its end, and whose block then goes.

A reader learns of a reorganisation by the blocks that it has read; these facts are of none of them.
"""

import asyncio

import pytest
from msgspec.structs import replace

from events import payment
from tests.keeping import house
from tests.rpc_proxy import FAULTS, Fault


async def test_a_fact_told_before_the_reading_of_its_blocks_failed_is_taken_back_with_its_block() -> None:
    async with house() as here:
        one, its = await here.pay(600)
        other, the_others = await here.pay(601)
        async with here.keeping():
            for key in (one, other):
                await here.start(key, 1)
                await here.flows(key, 1)
            here.proxy.on_request = lambda _: False

            def fails_once_told(_: str) -> Fault | None:
                return None if here.following.view.streams[one].active else FAULTS["http 500"]

            here.errors.fault = fails_once_told
            for paid in (its, the_others):
                await here.as_payer(paid.escrow, "stop()")
            here.proxy.on_request = lambda _: True
            await here.flows(one, 0)
            async with asyncio.timeout(60):
                while here.errors.erred == 0:
                    await asyncio.sleep(0.01)
            assert (await here.state("stream", other)).active == 1
            await here.chain.rpc.ask("anvil_rollback", 2)
            await here.chain.rpc.ask("evm_mine")
            here.errors.fault = lambda _: None
            await here.flows(one, 1)
            for key in (one, other):
                await here.chain.wait(5)
                await here.end(key, 1)
                await here.flows(key, 0)
                await here.close(key)
                await here.settled(key)
        await here.sound()


async def test_a_settlement_that_is_told_after_its_block_was_taken_back_is_taken_back_too() -> None:
    async with house() as here, here.keeping():
        key, paid = await here.agree(600)
        arrived = await here.chain.settle(paid)
        await here.chain.rpc.ask("anvil_rollback", 1)
        await here.chain.rpc.ask("evm_mine")
        later, _ = await here.pay(601)
        await here.start(later, 1)
        await here.flows(later, 1)  # so all before it has been read
        await here.tell("session", key, payment.ConfirmPayment(arrived))
        await here.until("session", key, lambda state: state.settlement is None)
        again = await here.chain.settle(paid)
        await here.until("session", key, lambda state: state.settlement == again)
        await here.chain.wait(5)
        await here.end(later, 1)
        for one in (key, later):
            await here.close(one)
            await here.settled(one)
        await here.sound()


@pytest.mark.parametrize("before", [True, False])
async def test_facts_of_another_chain_are_not_this_ones_to_judge(before: bool) -> None:
    """As when a keeper is pointed at a wrong chain: what it does not find there happened all the same."""
    async with house() as here:
        key, paid = await here.agree(600)
        elsewhere = replace(await here.chain.settle(paid), chain_id=16602)
        await here.chain.rpc.ask("anvil_rollback", 1)
        await here.chain.rpc.ask("evm_mine")
        confirm = payment.ConfirmPayment(elsewhere)
        if before:
            await here.tell("session", key, confirm)
        async with here.keeping():
            if not before:
                await here.tell("session", key, confirm)
            later, _ = await here.pay(601)
            await here.start(later, 1)
            await here.flows(later, 1)
            assert (await here.state("session", key)).settlement == elsewhere
