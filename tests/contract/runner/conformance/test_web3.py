"""The rows of the table that need a chain, on a real anvil; and what happens when one is slow, or says no
late.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio
from sqlalchemy.ext.asyncio import AsyncEngine

from services.chain import anvil
from services.chain.artifacts import artifact
from services.chain.contract import Contract
from services.chain.networks import GWEI
from services.chain.rpc import Rpc
from services.chain.sender import Sender
from services.credentials import engine_of
from services.keeper.runner.runner import Runner
from tests.anvil import LOCAL, deployed_chain
from tests.contract.runner.conformance.row import Row, export
from tests.contract.runner.conformance.test_conformance import assert_row
from tests.contract.runner.conformance.web3_rows import ROWS, write
from tests.postgres import database

pytestmark = pytest.mark.asyncio(loop_scope="module")
OWNER = anvil.dev_account(0)
WITHIN_S = 60.0


@dataclass(frozen=True)
class House:
    rpc: Rpc
    engine: AsyncEngine
    sender: Sender
    runner: Runner
    world: dict[str, str]

    def another_runner(self) -> Runner:
        return Runner(self.engine, rpc=self.rpc, network=LOCAL, sender=self.sender)

    async def sent(self) -> int:
        return await self.rpc.nonce(OWNER.address)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house() -> AsyncIterator[House]:
    async with deployed_chain() as (rpc, manifest), database() as url:
        engine = engine_of(url)
        sender = Sender(rpc, LOCAL, OWNER, engine)
        contracts = {name: entry.address for name, entry in manifest.contracts.items()}
        runner = Runner(engine, rpc=rpc, network=LOCAL, sender=sender, contracts=contracts)
        world = {
            "usdc": manifest.at("USDC"),
            "usdcx": manifest.at("USDCx"),
            "me": OWNER.address,
            "other": "0x" + "5b" * 20,
            "network": str(LOCAL.chain_id),
        }
        yield House(rpc, engine, sender, runner, world)
        await runner.close()
        await engine.dispose()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_row(row: Row, house: House) -> None:
    await assert_row(row, house.runner, house.world)


async def test_a_refused_call_sends_nothing_and_a_run_that_sent_says_what(house: House) -> None:
    before = await house.sent()
    workflow = await house.runner.ensure_workflow(
        export("two", (write("a", "mint", "{{@trigger:Trigger.to}}", "1"),), "trigger>a")
    )
    bad = await house.runner.execute(workflow, {**house.world, "to": "0x" + "00" * 20}, "bad")
    failed = await house.runner.wait(bad, WITHIN_S)
    assert (failed.error, failed.transactions) == (f"ERC20InvalidReceiver(0x{'00' * 20})", ())
    assert await house.sent() == before
    good = await house.runner.execute(workflow, {**house.world, "to": house.world["other"]}, "good")
    done = await house.runner.wait(good, WITHIN_S)
    (sent,) = done.transactions
    assert (sent.node_id, sent.node_name, sent.chain_id, sent.iteration) == ("a", "A", LOCAL.chain_id, None)
    receipt = await house.rpc.receipt(sent.hash)
    assert receipt is not None
    assert receipt.succeeded
    assert await house.sent() == before + 1


@contextlib.asynccontextmanager
async def no_blocks(rpc: Rpc) -> AsyncIterator[None]:
    await rpc.ask("evm_setAutomine", False)
    try:
        yield
    finally:
        await rpc.ask("evm_setAutomine", True)
        await rpc.ask("evm_mine")


async def signed(house: House, execution: str) -> str:
    """As soon as the write's transaction is written down."""
    while True:
        entry = await house.sender.known(f"{execution}:a")
        if entry is not None:
            return entry.hash
        await asyncio.sleep(0.02)


async def test_a_revert_that_was_mined_names_its_error_and_its_transaction(house: House) -> None:
    """The estimate is fine; in the same block, before it, somebody else takes the money."""
    usdc, taker = Contract(artifact("MockUSDC"), house.world["usdc"]), anvil.dev_account(7).address
    for intent, data in (
        ("late:funds", usdc.calldata("mint", OWNER.address, 10)),
        ("late:allowance", usdc.calldata("approve", taker, 10)),
    ):
        await house.sender.send(intent, usdc.address, data, within_s=WITHIN_S)
    all_of_it = await usdc.read(house.rpc, "balanceOf", OWNER.address)
    workflow = await house.runner.ensure_workflow(
        export("late", (write("a", "transfer", "{{@trigger:Trigger.other}}", str(all_of_it)),), "trigger>a")
    )
    async with no_blocks(house.rpc):
        execution = await house.runner.execute(workflow, house.world, "late")
        transaction = await asyncio.wait_for(signed(house, execution), WITHIN_S)
        taken = "0x" + usdc.calldata("transferFrom", OWNER.address, taker, 1).hex()
        first = {"from": taker, "to": usdc.address, "data": taken, "gas": "0x30000"}
        fees = {"maxFeePerGas": hex(500 * GWEI), "maxPriorityFeePerGas": hex(400 * GWEI)}
        await house.rpc.ask("eth_sendTransaction", first | fees)
    found = await house.runner.wait(execution, WITHIN_S)
    assert found.status == "error"
    assert (found.error or "").startswith("ERC20InsufficientBalance(")
    assert [sent.hash for sent in found.transactions] == [transaction]
    receipt = await house.rpc.receipt(transaction)
    assert receipt is not None
    assert not receipt.succeeded


async def test_a_process_that_stops_while_its_transaction_waits_is_followed_by_one_that_takes_it_up(
    house: House,
) -> None:
    before = await house.sent()
    first = house.another_runner()
    workflow = await first.ensure_workflow(
        export("slow", (write("a", "mint", "{{@trigger:Trigger.other}}", "1"),), "trigger>a")
    )
    async with no_blocks(house.rpc):
        execution = await first.execute(workflow, house.world, "slow")
        transaction = await asyncio.wait_for(signed(house, execution), WITHIN_S)
        await first.close()
        second = house.another_runner()
        assert await second.resume() == 1
        assert (await second.wait(execution, 0.2)).status == "running"
    found = await second.wait(execution, WITHIN_S)
    await second.close()
    assert [sent.hash for sent in found.transactions] == [transaction]
    assert await house.sent() == before + 1
