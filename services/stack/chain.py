"""The local chain as a process of the stack: anvil on a saved state, and the contracts of this program on it.

Knows no contract and nobody who uses them.
"""

from pathlib import Path

from services.chain import anvil
from services.chain import manifest as manifests
from services.chain.contracts import plan_of
from services.chain.deployer import Deployer, standing
from services.chain.networks import network_of
from services.chain.plan import digest
from services.chain.rpc import connected
from services.stack.node import plain_environment
from services.stack.process import Process
from services.stack.readiness import Learned, Output, Probe
from services.stack.supervisor import Supervisor

NAME = "anvil"
STOP_WITHIN_S = 30.0
"""It writes its state when it is asked to stop."""


async def start_chain(supervisor: Supervisor, directory: Path, manifest_path: Path, port: int) -> str:
    """Its URL, once everything is deployed. Raises NotReady, ProgramMissing, ArtifactMissing, AnvilFailed,
    and what the deployer raises when an older chain lacks what this program needs."""
    state, wanted = await anvil.prepare(directory)
    url = f"http://127.0.0.1:{port}"
    argv = anvil.command(port, *anvil.ticking(state.resolve()))
    spec = Process(NAME, argv, _answers(url), plain_environment(), stop_within_s=STOP_WITHIN_S)
    await supervisor.start(spec)
    supervisor.note_address(NAME, url)
    key = anvil.dev_account()
    plan = plan_of(key.address)
    async with connected(url) as rpc:
        deployer = Deployer(rpc, network_of(anvil.CHAIN_ID), key)
        if not all(await standing(rpc, plan)):
            supervisor.say("starting", "chain: adding what this version deploys")
            wanted = await deployer.run(plan, resume=True)
    assert wanted.plan == digest(plan)
    manifests.write(manifest_path, wanted)
    return url


def _answers(url: str) -> Probe:
    async def probe(_: Output) -> Learned | None:
        async with connected(url, timeout_s=2.0, attempts=1) as rpc:
            return {} if await anvil.answers(rpc) else None

    return probe
