"""The plugins that are offered to KeeperHub, against real contracts on a real chain, and against `cast`."""

import asyncio
import json
from dataclasses import replace

import msgspec
import pytest
from eth_utils.address import to_checksum_address

from services.chain import abi, anvil
from services.chain.coalitions import coalition_of
from services.chain.rpc import Rpc
from services.stack import upstream_checks
from services.stack.node import program
from services.stack.stack import ROOT
from tests.anvil import deployed_chain
from tests.contract.test_chain_coalitions import TERMS
from tests.paid_chain import PaidChain

GOLDENS = upstream_checks.PLUGINS / "tests" / "unit" / "__goldens__" / "calldata.json"
NAMES = ("admin", "attestor1", "attestor2", "stranger", "steward", "operator", "voter")
LICENCES = {"MIT", "ISC", "Apache-2.0", "BSD-3-Clause", "0BSD"}
BOND_MICRO = 6_000_000


async def test_calldata_of_every_action_is_what_cast_makes_of_it() -> None:
    goldens = json.loads(GOLDENS.read_text())
    assert len(goldens) >= 20
    built = ROOT / "bin" / "cast"
    cast = str(built if built.exists() else program("cast"))

    async def made(golden: dict[str, object]) -> str:
        arguments = [str(golden["signature"]), *msgspec.convert(golden["args"], list[str])]
        process = await asyncio.create_subprocess_exec(
            cast, "calldata", *arguments, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        return out.decode().strip()

    assert await asyncio.gather(*map(made, goldens)) == [golden["calldata"] for golden in goldens]


def test_its_packages_are_pinned_by_hash_from_nowhere_in_particular_under_free_licences() -> None:
    packages = json.loads((upstream_checks.PLUGINS / "package-lock.json").read_text())["packages"]
    ours = packages.pop("")
    assert ours["license"] == "MIT"
    assert all("integrity" in one and "resolved" not in one for one in packages.values())
    assert {one["license"] for one in packages.values()} <= LICENCES
    wanted = json.loads((upstream_checks.PLUGINS / "package.json").read_text())["devDependencies"]
    assert all(version[0].isdigit() for version in wanted.values())


async def on_chain(node: str, rpc: Rpc, world: dict[str, str], *tests: str) -> None:
    files = [f"tests/chain/{name}.test.ts" for name in tests]
    environment = {"RPC_URL": rpc.url, "WORLD": json.dumps(world)}
    for file in files:  # one after another: they share a chain and its clock
        assert await upstream_checks.run(node, *upstream_checks.VITEST, file, **environment) == 0, file


@pytest.mark.long
async def test_every_action_does_on_a_real_chain_what_it_says() -> None:
    node = await asyncio.to_thread(upstream_checks.prepared)
    async with deployed_chain() as (rpc, manifest):
        chain = PaidChain(rpc, manifest)
        await chain.prepare()
        wallets = {name: anvil.dev_account(number).address for number, name in enumerate(NAMES)}
        attestors = wallets["attestor1"], wallets["attestor2"], anvil.dev_account(9).address
        place = coalition_of(
            manifest, "upstream", replace(TERMS, steward=wallets["steward"], attestors=attestors)
        )
        now = (await rpc.block()).timestamp
        world = wallets | {
            "network": str(anvil.CHAIN_ID),
            "cfaForwarder": manifest.at("CFAv1Forwarder"),
            "gdaForwarder": manifest.at("GDAv1Forwarder"),
            "gdaAgreement": manifest.at("GDAv1"),
            "usdcx": manifest.at("USDCx"),
            "ballotBox": manifest.at("BallotBox"),
            "ballotDeadline": str(now + 3600),
            "factory": manifest.at("CoalitionFactory"),
            "salt": "0x" + place.salt.hex(),
            "initCode": "0x" + place.init_code.hex(),
            "coalition": to_checksum_address(place.address),
            "breachDeadline": str(now + 500_000),
        }
        await _fund(chain, wallets["steward"], manifest.at("USDCx"))
        await on_chain(node, rpc, world, "superfluid", "ballots", "coalition")

        operator = wallets["operator"]
        await chain.send(chain.admin, chain.usdc, abi.call("mint(address,uint256)", operator, BOND_MICRO))
        await chain.send(
            operator, chain.usdc, abi.call("approve(address,uint256)", place.address, BOND_MICRO)
        )
        await chain.send(operator, place.address, abi.call("bond(address,uint256)", operator, BOND_MICRO))
        await on_chain(node, rpc, world, "activation")

        chain.coalition = place.address
        paid = await chain.agree(1)
        await chain.settle(paid)
        await chain.open(paid, 1)
        await on_chain(node, rpc, world | {"session": to_checksum_address(paid.escrow)}, "slash")
        assert await chain.number(paid.escrow, "active()") == 0


async def _fund(chain: PaidChain, account: str, usdcx: str) -> None:
    """With USDCx, for a stream."""
    await chain.send(chain.admin, chain.usdc, abi.call("mint(address,uint256)", account, BOND_MICRO))
    await chain.send(account, chain.usdc, abi.call("approve(address,uint256)", usdcx, BOND_MICRO))
    await chain.send(account, usdcx, abi.call("upgrade(uint256)", BOND_MICRO * 10**12))
