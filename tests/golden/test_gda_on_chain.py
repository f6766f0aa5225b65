"""Random schedules on the real Superfluid: from its events alone every account's share follows to the wei."""

import random
from dataclasses import dataclass, field

import pytest

from events import gda
from services.chain import abi, anvil, logs
from services.chain.artifacts import artifact
from services.chain.contract import Contract
from services.chain.manifest import Manifest
from services.chain.rpc import Receipt, Rpc
from services.chain.transactions import receipt_of
from tests.anvil import LOCAL, deployed_chain

ADMIN = anvil.dev_account(0).address
PAYERS = [anvil.dev_account(number).address for number in (1, 2, 3)]
MEMBERS = ["0x" + f"{number:040x}" for number in (0xA1, 0xA2, 0xA3, 0xA4)] + [PAYERS[0]]
RICH = 10**12
"""micro-USDC for each payer: never used up by a schedule."""


@dataclass
class World:
    """A fresh pool on a chain; `clock` is the newest block's time."""

    rpc: Rpc
    manifest: Manifest
    clock: int
    pool: str = ""
    first_block: int = 0
    said: list[str] = field(default_factory=list)

    @property
    def token(self) -> str:
        return self.manifest.at("USDCx")

    @property
    def forwarder(self) -> Contract:
        return Contract(artifact("GDAv1Forwarder", "superfluid"), self.manifest.at("GDAv1Forwarder"))

    async def send(self, sender: str, to: str, data: bytes, seconds: int = 1) -> Receipt:
        """In a block of its own, `seconds` after the last."""
        self.clock += seconds
        await self.rpc.ask("evm_setNextBlockTimestamp", self.clock)
        request = {"from": sender, "to": to, "data": "0x" + data.hex(), "gas": hex(3_000_000)}
        receipt = await receipt_of(self.rpc, await self.rpc.ask("eth_sendTransaction", request), 30)
        assert receipt.succeeded, self.said
        return receipt

    async def open_pool(self) -> None:
        config = (False, True)
        data = self.forwarder.calldata("createPool", self.token, ADMIN, config)
        receipt = await self.send(ADMIN, self.forwarder.address, data)
        agreement = Contract(
            artifact("GeneralDistributionAgreementV1", "superfluid"), self.manifest.at("GDAv1")
        )
        created = next(
            said for log in receipt.logs if (said := agreement.said(log)) and said.name == "PoolCreated"
        )
        self.pool, self.first_block = created.values["pool"], receipt.block_number

    async def endow(self) -> None:
        """Every payer gets USDCx for a million USDC."""
        usdc, token = Contract(artifact("MockUSDC"), self.manifest.at("USDC")), self.token
        for payer in PAYERS:
            await self.send(ADMIN, usdc.address, usdc.calldata("mint", payer, RICH))
            await self.send(payer, usdc.address, usdc.calldata("approve", token, RICH))
            await self.send(payer, token, abi.call("upgrade(uint256)", RICH * 10**12))

    async def something(self, draw: random.Random) -> None:
        """One random act, some random seconds later."""
        forwarder, payer, member = self.forwarder, draw.choice(PAYERS), draw.choice(MEMBERS)
        seconds = draw.choice([1, 2, 7, 60, 3_600, 86_400])
        act = draw.choices(["flow", "units", "now", "stop", "claim"], [5, 3, 2, 2, 1])[0]
        self.said.append(f"{act} {payer[:6]} {member[:6]} +{seconds}")
        match act:
            case "flow":
                rate = draw.choice([7, 10**6 + 3, 10**12 + 5, 5 * 10**12])
                data = forwarder.calldata("distributeFlow", self.token, payer, self.pool, rate, b"")
            case "stop":
                data = forwarder.calldata("distributeFlow", self.token, payer, self.pool, 0, b"")
            case "now":
                amount = draw.choice([1, 99, 10**15 + 7])
                data = forwarder.calldata("distribute", self.token, payer, self.pool, amount, b"")
            case "claim":
                data = forwarder.calldata("claimAll", self.pool, member, b"")
            case _:
                units = draw.choice([0, 1, 3, 7, 1_000, 10_000])
                data = forwarder.calldata("updateMemberUnits", self.pool, member, units, b"")
                payer = ADMIN
        await self.send(payer, forwarder.address, data, seconds)

    async def facts(self) -> list[gda.Fact]:
        last = await self.rpc.block_number()
        places = [self.pool, self.manifest.at("GDAv1")]
        found = []
        for log in await logs.between(self.rpc, LOCAL, self.first_block, last, places):
            if gda.pool_of(log.address, log.topics) == self.pool.lower():
                at = (await self.rpc.block(log.block_number)).timestamp
                fact = gda.fact_of(log.topics, log.data, at)
                assert fact is not None
                found.append(fact)
        return found

    async def compare(self) -> int:
        """Wei that members have got; every figure of the chain against its replay."""
        facts = await self.facts()
        replayed = gda.replay(facts)
        pool = Contract(artifact("SuperfluidPool", "superfluid"), self.pool)
        total = 0
        for member in MEMBERS:
            got = replayed.received(member.lower(), self.clock)
            assert await pool.read(self.rpc, "getTotalAmountReceivedByMember", member) == got, self.said
            assert await pool.read(self.rpc, "getMemberFlowRate", member) == replayed.member_rate(
                member.lower()
            )
            total += got
        adjustment = await self.forwarder.read(self.rpc, "getPoolAdjustmentFlowRate", self.pool)
        assert adjustment == replayed.adjustment_rate, self.said
        spent = sum(replayed.spent(payer.lower(), self.clock) for payer in PAYERS)
        assert spent == total + replayed.adjustments(self.clock)
        return total


async def walk(seed: int, acts: int, every: int) -> int:
    draw = random.Random(seed)
    async with deployed_chain() as (rpc, manifest):
        world = World(rpc, manifest, (await rpc.block()).timestamp + 100_000)
        await world.endow()
        await world.open_pool()
        for number in range(1, acts + 1):
            await world.something(draw)
            if number % every == 0:
                await world.compare()
        return await world.compare()


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_a_random_schedule_is_recomputed_to_the_wei(seed: int) -> None:
    assert await walk(seed, acts=30, every=10) > 0


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 106))
async def test_long_random_schedules_are_recomputed_to_the_wei(seed: int) -> None:
    assert await walk(seed, acts=150, every=25) > 0


def test_the_topics_are_those_of_the_compiled_contracts() -> None:
    agreement = Contract(artifact("GeneralDistributionAgreementV1", "superfluid"), "")
    assert agreement.topic("FlowDistributionUpdated") == gda.FLOW_TOPIC
    assert agreement.topic("InstantDistributionUpdated") == gda.INSTANT_TOPIC
    assert (
        Contract(artifact("SuperfluidPool", "superfluid"), "").topic("MemberUnitsUpdated") == gda.UNITS_TOPIC
    )
