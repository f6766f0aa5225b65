"""The local chain under the stack's supervisor: it comes with its contracts, and its state outlives it."""

import asyncio
import shutil
from pathlib import Path

import pytest

from services.chain import abi, anvil, manifest, transactions
from services.chain.rpc import connected
from services.stack import register
from services.stack.chain import NAME, start_chain
from services.stack.supervisor import supervising
from tests.anvil import LOCAL
from tests.nats_server import free_port


async def test_the_chain_is_there_with_its_contracts_and_recorded(tmp_path: Path) -> None:
    path = tmp_path / "chain" / "31337.json"
    async with supervising(tmp_path) as supervisor:
        url = await start_chain(supervisor, tmp_path / "chain", path, free_port())
        (entry,) = register.read(tmp_path).processes
        assert (entry.name, entry.address, entry.state()) == (NAME, url, "running")
        known = manifest.read(path)
        async with connected(url) as rpc:
            for placed in known.contracts.values():
                assert await rpc.code(placed.address)
            first = await rpc.block_number()
            while await rpc.block_number() < first + 2:
                await asyncio.sleep(0.05)
    assert register.read(tmp_path).processes[0].exit_status is not None


async def test_what_happened_on_the_chain_outlives_a_restart(tmp_path: Path) -> None:
    path, port = tmp_path / "chain" / "31337.json", free_port()
    someone = "0x" + "77" * 20
    async with supervising(tmp_path) as supervisor:
        url = await start_chain(supervisor, tmp_path / "chain", path, port)
        async with connected(url) as rpc:
            key = anvil.dev_account(3)
            fees = await transactions.fees(rpc, LOCAL)
            signed = transactions.sign(
                key, LOCAL, nonce=0, to=someone, data=b"", gas=21_000, fees=fees, value_wei=5
            )
            await rpc.send(signed.raw)
            paid = await transactions.receipt_of(rpc, signed.hash, 30)
        before = path.read_bytes()
    async with supervising(tmp_path) as supervisor:
        url = await start_chain(supervisor, tmp_path / "chain", path, port)
        async with connected(url) as rpc:
            assert await rpc.balance(someone) == 5
            assert await rpc.receipt(signed.hash) == paid
            assert (await rpc.block(paid.block_number)).hash == paid.block_hash
    assert path.read_bytes() == before


async def test_a_chain_of_an_older_version_gets_what_it_lacks(tmp_path: Path) -> None:
    """Here the older version had deployed nothing at all."""
    directory, path = tmp_path / "chain", tmp_path / "31337.json"
    directory.mkdir()
    async with anvil.running("--dump-state", str(tmp_path / "empty.json")):
        pass
    shutil.copyfile(tmp_path / "empty.json", directory / anvil.STATE_FILE)
    async with supervising(tmp_path) as supervisor:
        url = await start_chain(supervisor, directory, path, free_port())
        async with connected(url) as rpc:
            usdcx = manifest.read(path).at("USDCx")
            symbol = await rpc.call(usdcx, abi.call("symbol()"))
            assert abi.decode(("string",), symbol) == ("USDCx",)


async def test_a_state_file_that_was_cut_off_is_named_and_left_as_it_is(tmp_path: Path) -> None:
    directory = tmp_path / "chain"
    state, _ = await anvil.prepare(directory)
    whole = state.read_bytes()
    state.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(anvil.ChainStateDamaged, match=r"chain/state\.json"):
        await anvil.prepare(directory)
    assert state.read_bytes() == whole[: len(whole) // 2]
