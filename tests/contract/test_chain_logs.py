"""Reading events from a real anvil: ranges, confirmations, and blocks that the chain takes back."""

from dataclasses import replace

import httpx
import pytest

from services.chain import abi, anvil, transactions
from services.chain.artifacts import artifact
from services.chain.contract import Contract, NoSuchFunction, NotAnswered
from services.chain.logs import Batch, Mark, Step, TakenBack, after, between, mark_before, read_on
from services.chain.manifest import Manifest
from services.chain.rpc import Receipt, Rpc
from tests.anvil import LOCAL, deployed_chain, next_at

KEY = anvil.dev_account()
PATIENT = replace(LOCAL, confirmations=3, log_range=4)


async def mint(rpc: Rpc, manifest: Manifest, micro: int) -> Receipt:
    usdc = usdc_of(manifest)
    data = usdc.calldata("mint", KEY.address, micro)
    gas = await transactions.gas_for(rpc, LOCAL, KEY.address, usdc.address, data)
    signed = transactions.sign(
        KEY,
        LOCAL,
        nonce=await rpc.nonce(KEY.address),
        to=usdc.address,
        data=data,
        gas=gas,
        fees=await transactions.fees(rpc, LOCAL),
    )
    await rpc.send(signed.raw)
    return await transactions.receipt_of(rpc, signed.hash, 30)


def usdc_of(manifest: Manifest) -> Contract:
    return Contract(artifact("MockUSDC"), manifest.at("USDC"))


def minted(step: Step, usdc: Contract) -> list[int]:
    assert isinstance(step, Batch)
    said = [usdc.said(log) for log in step.logs]
    return [found.values["value"] for found in said if found and found.name == "Transfer"]


async def test_every_event_is_read_once_in_order_and_only_when_it_is_confirmed() -> None:
    async with deployed_chain() as (rpc, manifest):
        usdc = usdc_of(manifest)
        marks: tuple[Mark, ...] = (await mark_before(rpc, await rpc.block_number() + 1),)
        for micro in range(1, 9):
            await mint(rpc, manifest, micro)
        found: list[int] = []
        while (step := await read_on(rpc, PATIENT, marks, [usdc.address])) is not None:
            found += minted(step, usdc)
            assert isinstance(step, Batch)
            assert step.mark.number - marks[-1].number <= PATIENT.log_range
            marks = after(marks, step)
        assert found == [1, 2, 3, 4, 5, 6]
        await rpc.ask("anvil_mine", "0x2")
        step = await read_on(rpc, PATIENT, marks, [usdc.address])
        assert minted(step, usdc) == [7, 8]


class ReorganisedMeanwhile(Rpc):
    """The chain takes its newest block back just before its height is asked for, and grows past it."""

    async def block_number(self) -> int:
        await self.ask("anvil_rollback", 1)
        await self.ask("anvil_mine", "0x3")
        return await super().block_number()


async def test_blocks_taken_back_while_a_batch_is_read_are_not_passed_over() -> None:
    async with deployed_chain() as (rpc, manifest), httpx.AsyncClient() as client:
        usdc = usdc_of(manifest)
        before = await mark_before(rpc, await rpc.block_number() + 1)
        await mint(rpc, manifest, 1)
        step = await read_on(rpc, LOCAL, (before,), [usdc.address])
        assert minted(step, usdc) == [1]
        assert isinstance(step, Batch)
        marks = after((before,), step)
        assert await read_on(ReorganisedMeanwhile(rpc.url, client), LOCAL, marks, [usdc.address]) is None
        assert await read_on(rpc, LOCAL, marks, [usdc.address]) == TakenBack(before)


async def test_blocks_taken_back_are_reported_from_the_last_common_one() -> None:
    async with deployed_chain() as (rpc, manifest):
        usdc = usdc_of(manifest)
        marks: tuple[Mark, ...] = (await mark_before(rpc, await rpc.block_number() + 1),)
        for micro in (1, 2, 3):
            await mint(rpc, manifest, micro)
            step = await read_on(rpc, LOCAL, marks, [usdc.address])
            assert isinstance(step, Batch)
            marks = after(marks, step)
        await rpc.ask("anvil_rollback", 2)
        await mint(rpc, manifest, 20)
        await mint(rpc, manifest, 30)
        step = await read_on(rpc, LOCAL, marks, [usdc.address])
        assert step == TakenBack(marks[1])
        marks = after(marks, step)
        step = await read_on(rpc, LOCAL, marks, [usdc.address])
        assert minted(step, usdc) == [20, 30]


async def test_a_chain_that_is_shorter_than_what_was_read_took_blocks_back() -> None:
    async with deployed_chain() as (rpc, manifest):
        first = await mark_before(rpc, await rpc.block_number() + 1)
        await mint(rpc, manifest, 1)
        second = await mark_before(rpc, await rpc.block_number() + 1)
        await rpc.ask("anvil_rollback", 1)
        assert await read_on(rpc, LOCAL, (first, second), []) == TakenBack(first)


async def test_a_range_that_the_node_refuses_is_read_in_smaller_ones() -> None:
    """A range beyond the newest block is what anvil refuses."""
    async with deployed_chain() as (rpc, manifest):
        receipt = await mint(rpc, manifest, 5)
        found = await between(rpc, LOCAL, 0, receipt.block_number, [manifest.at("USDC")])
        narrow = await between(
            rpc, replace(LOCAL, log_range=3), 0, receipt.block_number, [manifest.at("USDC")]
        )
        assert found == narrow
        assert found[-1].transaction == receipt.transaction


async def test_events_and_views_are_read_by_the_compiled_abi() -> None:
    async with deployed_chain() as (rpc, manifest):
        usdc = usdc_of(manifest)
        receipt = await mint(rpc, manifest, 5)
        said = usdc.said(receipt.logs[0])
        assert said is not None
        assert said.name == "Transfer"
        assert said.values == {"from": "0x" + "00" * 20, "to": KEY.address.lower(), "value": 5}
        assert (
            receipt.logs[0].topics[0]
            == usdc.topic("Transfer")
            == abi.topic("Transfer(address,address,uint256)")
        )
        assert await usdc.read(rpc, "balanceOf", KEY.address) == 5
        assert await usdc.read(rpc, "symbol") == "USDC"
        with pytest.raises(NoSuchFunction):
            usdc.calldata("mint", 1)
        with pytest.raises(NotAnswered):
            await Contract(artifact("MockUSDC"), "0x" + "12" * 20).read(rpc, "symbol")


async def test_pending_sees_the_time_of_the_next_block() -> None:
    async with deployed_chain() as (rpc, manifest):
        host = Contract(artifact("Superfluid", "superfluid"), manifest.at("Host"))
        now = (await rpc.block()).timestamp
        await next_at(rpc, now + 100_000)
        assert await host.read(rpc, "getNow") == now
        assert await host.read(rpc, "getNow", height="pending") == now + 100_000
