"""The deployer on a real anvil: the whole plan, every place it can be interrupted at, and what it refuses."""

from dataclasses import replace
from pathlib import Path

import pytest

from services.chain import abi, anvil
from services.chain.addresses import DETERMINISTIC_PROXY
from services.chain.contracts import plan_of
from services.chain.deployer import (
    Deployer,
    DeployerPoor,
    DeploymentUnfinished,
    Progress,
    StepFailed,
    standing,
)
from services.chain.manifest import NotDeployed, read, write
from services.chain.networks import NETWORKS, ChainUnknown, network_of
from services.chain.plan import HasCode, Step
from services.chain.superfluid import PERIODS_S, PROXY_DEPLOYMENT
from services.chain.transactions import GasAboveCap, account, sign
from tests.anvil import LOCAL, deployed_chain

KEY = anvil.dev_account()


class Killed(Exception):
    """Stands for the deployer's end in the middle."""


async def test_a_run_killed_after_any_step_is_finished_by_the_next_with_the_same_manifest() -> None:
    """Every run is killed after one transaction: as many runs as steps, each knows what the chain tells."""
    plan = plan_of(KEY.address)
    sent: list[str] = []

    def dies(progress: Progress) -> None:
        if progress.how == "sent":
            sent.append(progress.title)
            raise Killed

    async with anvil.running() as rpc:
        deployer = Deployer(rpc, LOCAL, KEY)
        while True:
            try:
                walked = await deployer.run(plan, resume=True, say=dies)
            except Killed:
                continue
            break
        assert sent == [step.title for step in plan.steps if step.title != "create the CREATE2 proxy"]
        assert all(await standing(rpc, plan))
    async with deployed_chain() as (_, whole):
        assert walked.as_json() == whole.as_json()


async def test_a_second_run_sends_nothing() -> None:
    async with deployed_chain() as (rpc, manifest):
        before = await rpc.nonce(KEY.address, "latest"), await rpc.block_number()
        how = set()
        again = await Deployer(rpc, LOCAL, KEY).run(plan_of(KEY.address), say=lambda p: how.add(p.how))
        assert again == manifest
        assert how == {"stood"}
        assert before == (await rpc.nonce(KEY.address, "latest"), await rpc.block_number())


async def test_an_unfinished_deployment_goes_on_only_when_asked_to() -> None:
    plan = plan_of(KEY.address)

    def dies(progress: Progress) -> None:
        if progress.title == "create Host":
            raise Killed

    async with anvil.running() as rpc:
        deployer = Deployer(rpc, LOCAL, KEY)
        with pytest.raises(Killed):
            await deployer.run(plan, say=dies)
        with pytest.raises(DeploymentUnfinished, match=r"1[01] of .* the next is: give SimpleForwarder"):
            await deployer.run(plan)


async def test_addresses_depend_on_the_owner_and_not_on_the_chain_or_its_history() -> None:
    """The deployer has sent other transactions, and the chain has another id."""
    plan = plan_of(KEY.address)
    async with anvil.running(chain_id=16602) as rpc, deployed_chain() as (_, elsewhere):
        network = network_of(await rpc.chain_id())
        await rpc.ask("anvil_setNonce", KEY.address, hex(77))
        made = await Deployer(rpc, network, KEY).run(plan)
    assert made.chain_id == 16602
    assert {name: entry.address for name, entry in made.contracts.items()} == {
        name: entry.address for name, entry in elsewhere.contracts.items()
    }
    other = plan_of(anvil.dev_account(1).address)
    assert other.genesis != plan.genesis
    assert other.at("Host") != plan.at("Host")


async def test_the_token_is_wrapped_and_its_buffer_small() -> None:
    async with deployed_chain() as (rpc, manifest):
        token, usdc = manifest.at("USDCx"), manifest.at("USDC")
        decimals = await rpc.call(token, abi.call("decimals()"))
        assert abi.decode(("uint8",), decimals) == (18,)
        assert abi.decode(("uint8",), await rpc.call(usdc, abi.call("decimals()"))) == (6,)
        asked = abi.call("getPPPConfig(address,address)", manifest.at("Host"), token)
        periods = await rpc.call(manifest.at("Governance"), asked)
        assert abi.decode(("uint256", "uint256"), periods) == PERIODS_S
        found = await rpc.call(manifest.at("SuperfluidLoader"), abi.call("loadFramework(string)", "v1"))
        names = ("Host", "SuperTokenFactory", "CFAv1", "IDAv1", "GDAv1")
        listed = abi.decode(("address",) * 5, found)
        assert [address.lower() for address in listed] == [manifest.at(name).lower() for name in names]


async def test_a_refused_step_names_the_contracts_error() -> None:
    """The same plan by another key: Genesis obeys its owner alone."""
    async with deployed_chain() as (rpc, _):
        plan = plan_of(KEY.address)
        done = HasCode("0x" + "11" * 20)
        plan.steps.append(
            Step("one more", plan.genesis, abi.call("deploy(bytes32,bytes)", b"\0" * 32, b"\0"), done)
        )
        with pytest.raises(StepFailed, match=r"one more: \w*Owner\w*\("):
            await Deployer(rpc, LOCAL, anvil.dev_account(1)).run(plan, resume=True)


async def test_a_step_without_effect_is_a_failure() -> None:
    async with deployed_chain() as (rpc, _):
        plan = plan_of(KEY.address)
        plan.steps.append(Step("nothing", KEY.address, b"", HasCode("0x" + "11" * 20)))
        with pytest.raises(StepFailed, match=r"nothing: transaction 0x.* had no effect"):
            await Deployer(rpc, LOCAL, KEY).run(plan, resume=True)


async def test_a_deployer_without_coins_is_told_how_many_it_needs() -> None:
    poor = account("0x" + "42" * 32)
    async with deployed_chain() as (rpc, _):
        with pytest.raises(DeployerPoor, match=poor.address):
            await Deployer(rpc, LOCAL, poor).run(plan_of(poor.address))


async def test_a_transaction_above_the_chains_cap_is_not_sent() -> None:
    async with deployed_chain() as (rpc, _):
        plan = plan_of(anvil.dev_account(1).address)
        small = replace(LOCAL, gas_cap=200_000)
        with pytest.raises(GasAboveCap):
            await Deployer(rpc, small, anvil.dev_account(1)).run(plan)


def test_the_presigned_transactions_are_those_of_their_makers() -> None:
    from eth_account import Account

    from services.chain.addresses import create
    from services.chain.superfluid import REGISTRY, REGISTRY_SIGNER, registry_deployment

    for made, address in ((PROXY_DEPLOYMENT, DETERMINISTIC_PROXY), (registry_deployment(), REGISTRY)):
        assert Account.recover_transaction(made.raw) == made.signer
        assert create(made.signer, 0) == address
    assert registry_deployment().signer == REGISTRY_SIGNER


def test_every_network_has_sane_settings() -> None:
    assert set(NETWORKS) == {31337, 16602, 16661}
    for chain_id, network in NETWORKS.items():
        assert network.chain_id == chain_id
        assert 1 <= network.confirmations <= 64
        assert 6_000_000 < network.gas_cap <= 1 << 24
    assert network_of(16661).tip_floor_wei == network_of(16602).tip_floor_wei == 2 * 10**9
    assert not network_of(16661).play_money
    with pytest.raises(ChainUnknown, match="0G mainnet"):
        network_of(1)


async def test_a_manifest_survives_the_disk(tmp_path: Path) -> None:
    async with deployed_chain() as (_, manifest):
        path = tmp_path / "deep" / "31337.json"
        write(path, manifest)
        assert read(path) == manifest
        with pytest.raises(NotDeployed, match="lists no Castle"):
            manifest.at("Castle")
    with pytest.raises(NotDeployed):
        read(tmp_path / "none.json")


def test_signing_is_deterministic() -> None:
    from services.chain.transactions import Fees

    def once() -> bytes:
        return sign(KEY, LOCAL, nonce=3, to=KEY.address, data=b"\1", gas=21_000, fees=Fees(7, 1)).raw

    assert once() == once()
