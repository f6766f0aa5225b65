"""What stands is compared with what would be built: whole, one byte changed, a setting changed."""

from typing import Any

import msgspec
import pytest

from services.chain import abi, anvil, recompile
from services.chain.artifacts import artifact
from services.chain.contract import Contract
from services.chain.contracts import plan_of
from services.chain.deployer import Deployer
from services.chain.networks import network_of
from services.chain.transactions import receipt_of
from services.chain.verification import Finding, verify
from tests.anvil import deployed_chain

KEY = anvil.dev_account()


async def test_a_deployment_is_the_same_to_the_byte_proxies_and_immutables_included() -> None:
    async with deployed_chain() as (rpc, manifest):
        verdict = await verify(rpc, manifest, quick=True)
        assert verdict.well
        assert {finding.name for finding in verdict.contracts} == set(manifest.contracts)


async def test_it_can_be_compared_under_another_chain_id_and_with_a_token_of_somebody_else() -> None:
    async with anvil.running(chain_id=16661) as rpc:
        usdc = "0x" + "0c" * 20
        async with deployed_chain() as (other, manifest):
            code = await other.code(manifest.at("USDC"))
        await rpc.ask("anvil_setCode", usdc, "0x" + code.hex())
        made = await Deployer(rpc, network_of(16661), KEY).run(plan_of(KEY.address, usdc))
        verdict = await verify(rpc, made, quick=True)
        assert verdict.well
        assert made.at("USDC") == usdc


async def test_one_changed_byte_is_named_with_its_place() -> None:
    async with deployed_chain() as (rpc, manifest):
        place = manifest.at("GDAv1")
        code = bytearray(await rpc.code(place))
        code[1000] ^= 1
        await rpc.ask("anvil_setCode", place, "0x" + code.hex())
        await rpc.ask("anvil_setCode", manifest.at("BatchLiquidator"), "0x")
        verdict = await verify(rpc, manifest, quick=True)
        assert not verdict.well
        size = len(code)
        assert [finding for finding in verdict.contracts if finding.wrong] == [
            Finding(
                "GDAv1", place, (f"the code differs from byte 1000 on ({size} bytes there, {size} here)",)
            ),
            Finding("BatchLiquidator", manifest.at("BatchLiquidator"), ("nothing stands there",)),
        ]


async def test_a_setting_that_was_changed_afterwards_is_named() -> None:
    async with deployed_chain() as (rpc, manifest):
        governance, host, token = (manifest.at(name) for name in ("Governance", "Host", "USDCx"))
        data = abi.call("setPPPConfig(address,address,uint256,uint256)", host, token, 7_200, 60)
        genesis = Contract(artifact("Genesis"), manifest.at("Genesis"))
        request = {
            "from": KEY.address,
            "to": genesis.address,
            "data": "0x" + genesis.calldata("exec", governance, data).hex(),
        }
        await receipt_of(rpc, await rpc.ask("eth_sendTransaction", request), 30)
        verdict = await verify(rpc, manifest, quick=True)
        assert verdict.setup == ("set the buffer of USDCx",)
        assert not verdict.well


async def test_a_manifest_that_says_something_else_is_found_out() -> None:
    async with deployed_chain() as (rpc, manifest):
        host = msgspec.structs.replace(manifest.contracts["Host"], address="0x" + "11" * 20)
        more = {**manifest.contracts, "Host": host, "Castle": host}
        forged = msgspec.structs.replace(manifest, contracts=more, plan="00")
        verdict = await verify(rpc, forged, quick=True)
        wrong = {finding.name: finding.wrong for finding in verdict.contracts if finding.wrong}
        assert wrong == {"Host": (f"the manifest says {host.address}",), "Castle": ("not of this version",)}
        assert verdict.setup == ("the manifest is of another plan than this version's",)


async def test_our_contracts_are_what_their_sources_give() -> None:
    found = await recompile.recompile("computepool", ["Genesis", "LogAnchor"])
    assert found.compared == ("Genesis", "LogAnchor")
    assert found.differing == ()
    assert found.compiler.startswith("0.8.37+commit.")


def test_an_artifact_that_differs_by_one_digit_from_what_is_compiled_is_named() -> None:
    artifacts: dict[str, dict[str, Any]] = {
        "One": {"bytecode": {"object": "0x6001"}},
        "Two": {"bytecode": "0x6002__$ab$__"},
    }
    assert recompile.differing(artifacts, {"One": "6001", "Two": "6002__$ab$__"}) == ()
    assert recompile.differing(artifacts, {"One": "6000", "Two": "6002__$ab$__"}) == ("One",)


@pytest.mark.long
async def test_every_contract_of_superfluid_is_what_its_sources_give() -> None:
    async with deployed_chain() as (rpc, manifest):
        verdict = await verify(rpc, manifest)
        assert verdict.well
        superfluid, ours = verdict.recompiled
        assert superfluid.compiler.startswith("0.8.35+commit.")
        assert len(superfluid.compared) == 23
        assert {"Genesis", "LogAnchor", "MockUSDC"} <= set(ours.compared)
