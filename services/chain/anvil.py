"""anvil, a real EVM in one process: how it is started, and a saved state in which everything is deployed.

Knows no supervisor. Saved states lie in `build/chain/<key>/`, where the key is a hash of all that went into
them; they are made when they are first wanted, and can be deleted at any time.
"""

import asyncio
import contextlib
import hashlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from eth_account import Account
from eth_account.signers.local import LocalAccount

from services.chain import manifest as manifests
from services.chain.contracts import plan_of
from services.chain.deployer import Deployer
from services.chain.manifest import Manifest
from services.chain.networks import network_of
from services.chain.plan import Plan, digest
from services.chain.rpc import ChainAway, Rpc, connected
from services.stack.node import ROOT, program

CHAIN_ID = 31337
STATE_FILE, MANIFEST_FILE = "state.json", "manifest.json"
KEPT_STATES = 256
"""Blocks of which anvil keeps the state in memory; logs and receipts of all blocks stay."""
SAVE_EVERY_S = 10
FORMAT = b"1"
READY_WITHIN_S = 30.0


class AnvilFailed(Exception):
    """anvil_failed: the local chain did not start or ended by itself; the message quotes what it said."""

    code = "anvil_failed"
    remedy = "computepool doctor; computepool logs anvil"


class ChainStateDamaged(Exception):
    """chain_state_damaged: the local chain's state file is not whole; anvil was killed while it wrote it.

    Without the file the chain starts afresh, and the event log speaks of payments that it does not know.
    """

    code = "chain_state_damaged"
    remedy = (
        "Put a copy of the state directory back, or begin anew: computepool down, then remove the directory"
    )


def binary() -> Path:
    """Foundry's own program, not npm's launcher, which orphans it when killed. Raises ProgramMissing."""
    built = ROOT / "bin" / "anvil"
    return built if built.exists() else program("anvil")


def command(port: int, *options: str, chain_id: int = CHAIN_ID) -> tuple[str, ...]:
    chain = ("--host", "127.0.0.1", "--port", str(port), "--chain-id", str(chain_id))
    return (str(binary()), *chain, "--quiet", "--prune-history", str(KEPT_STATES), *options)


def ticking(state: Path) -> tuple[str, ...]:
    """A block at once for each transaction, and one every second; the state stays in a file."""
    blocks = ("--block-time", "1", "--mixed-mining")
    return (*blocks, "--state", str(state), "--state-interval", str(SAVE_EVERY_S))


def dev_account(number: int = 0) -> LocalAccount:
    """One of the accounts that anvil gives 10,000 coins to. Everybody knows its key."""
    Account.enable_unaudited_hdwallet_features()
    words = " ".join([*["test"] * 11, "junk"])
    made: LocalAccount = Account.from_mnemonic(words, account_path=f"m/44'/60'/0'/0/{number}")
    return made


@asynccontextmanager
async def running(*options: str, chain_id: int = CHAIN_ID) -> AsyncIterator[Rpc]:
    """An anvil of our own until the end of the block. Raises AnvilFailed, ProgramMissing."""
    port = _free_port()
    with tempfile.TemporaryFile() as said:
        child = await asyncio.create_subprocess_exec(
            *command(port, *options, chain_id=chain_id), stdin=subprocess.DEVNULL, stdout=said, stderr=said
        )
        try:
            async with connected(f"http://127.0.0.1:{port}", attempts=1) as rpc:
                while not await answers(rpc, chain_id):
                    if child.returncode is not None:
                        said.seek(0)
                        raise AnvilFailed(f"ended with {child.returncode}: {said.read()[-500:].decode()}")
                    await asyncio.sleep(0.02)
                yield rpc
        finally:
            with contextlib.suppress(ProcessLookupError):
                child.terminate()
            await child.wait()


async def answers(rpc: Rpc, chain_id: int = CHAIN_ID) -> bool:
    try:
        return await rpc.chain_id() == chain_id
    except ChainAway:
        return False


async def saved(plan: Plan) -> Path:
    """The directory with the state and the manifest of `plan`, made now if nobody made it before.

    Raises what the deployer raises, AnvilFailed, ProgramMissing.
    """
    found = ROOT / "build" / "chain" / _key(plan)
    if (found / STATE_FILE).exists():
        return found
    found.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".new-", dir=found.parent))
    try:
        async with running("--dump-state", str(scratch / STATE_FILE)) as rpc:
            made = await Deployer(rpc, network_of(CHAIN_ID), dev_account()).run(plan)
        if not (scratch / STATE_FILE).exists():
            raise AnvilFailed("it saved no state when it ended")
        manifests.write(scratch / MANIFEST_FILE, made)
        with contextlib.suppress(OSError):
            scratch.rename(found)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return found


async def prepare(directory: Path) -> tuple[Path, Manifest]:
    """The state file for a chain that lives in `directory` and the manifest of what this program deploys.

    A new directory gets the saved state; an old one keeps its own, to which `deploy` may have to add.
    Raises ChainStateDamaged, and what `saved` raises.
    """
    plan = plan_of(dev_account().address)
    source = await saved(plan)
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    state = directory / STATE_FILE
    if not state.exists():
        beside = directory / f"{STATE_FILE}.new.{os.getpid()}"
        shutil.copyfile(source / STATE_FILE, beside)
        beside.replace(state)
    try:
        msgspec.json.decode(state.read_bytes())
    except msgspec.DecodeError as cut:
        raise ChainStateDamaged(f"{state}: {cut}") from cut
    return state, manifests.read(source / MANIFEST_FILE)


def _key(plan: Plan) -> str:
    version = subprocess.run([binary(), "--version"], capture_output=True, check=True).stdout
    return hashlib.sha256(b"\0".join((FORMAT, digest(plan).encode(), version))).hexdigest()[:32]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
