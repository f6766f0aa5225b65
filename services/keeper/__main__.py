"""The keeper's process, `python -m services.keeper`: follows the log, reads the chain, sends what is due."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog
from eth_account.signers.local import LocalAccount
from nats.aio.client import Client
from sqlalchemy.ext.asyncio import AsyncEngine

from services import bus
from services.chain import manifest as manifests
from services.chain.artifacts import artifact
from services.chain.contract import Contract
from services.chain.networks import network_of
from services.chain.rpc import ChainAway, RpcRefused, connected
from services.chain.sender import Sender
from services.chain.wallets import fund_local, keeper_address, wallet
from services.credentials import engine_of
from services.database import database_url
from services.keeper.breaches import Breaches
from services.keeper.callbacks import Callbacks
from services.keeper.choosing import backend_of
from services.keeper.claims import ClaimReader
from services.keeper.deliveries import Deliveries
from services.keeper.entries import Reading
from services.keeper.epochs import EpochReader
from services.keeper.executor import AWAY, Executor
from services.keeper.following import Following
from services.keeper.forgetting import forget_old
from services.keeper.grants import Grants
from services.keeper.hinted import Hinted
from services.keeper.inbox import Inbox
from services.keeper.orphans import close_orphans
from services.keeper.reader import ChainReader
from services.keeper.runner.runner import Runner
from services.keeper.runner_http.desk import Desk
from services.keeper.runner_http.serving import serve_paths
from services.keeper.runner_http.shelf import Shelf
from services.keeper.runs import Runs
from services.keeper.vouchers import Vouchers
from services.log import EventLog, Writer
from services.logging import configure
from services.settings import Settings
from services.until_stopped import until_stopped

FACTORY = "SessionEscrowFactory"
LOCAL_RPC = "http://127.0.0.1:8545"
LONGEST_PAUSE_S = 5.0

log = structlog.get_logger("keeper")


async def keep(settings: Settings, client: Client, events: EventLog, following: Following) -> None:
    """Forever. A chain that is away, or has no contracts yet, is waited for. Raises what no waiting cures."""
    engine = engine_of(database_url(settings))
    pause_s = 0.2
    try:
        async with connected(settings.chain_rpc_url or LOCAL_RPC) as rpc:
            while True:
                try:
                    network = network_of(await rpc.chain_id())
                    manifest = manifests.read(settings.manifest_of(network.chain_id))
                    key = wallet(settings, "controller")
                    await fund_local(rpc, key.address)
                    break
                except (ChainAway, RpcRefused, manifests.NotDeployed) as away:
                    log.warning("waiting", code=away.code, why=str(away))
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            reading = Reading(rpc, network, manifest)
            await work(reading, key, engine, client, events, following, settings)
    finally:
        await engine.dispose()


async def work(
    reading: Reading,
    key: LocalAccount,
    engine: AsyncEngine,
    client: Client,
    events: EventLog,
    following: Following,
    settings: Settings,
) -> None:
    """Forever, on a chain that has the contracts. `key`: of the embedded runner's wallet."""
    callbacks = Callbacks.of(settings)
    manifest = reading.manifest
    reader = ChainReader(reading, events, following, keeper_address(settings))
    factory = Contract(artifact(FACTORY), manifest.at(FACTORY))
    usdc = Contract(artifact("MockUSDC"), manifest.at("USDC"))
    rpc, network = reading.rpc, reading.network
    sender = Sender(rpc, network, key, engine)
    deliveries, grants = Deliveries(engine), Grants(engine, callbacks)
    runner = Runner(
        engine,
        rpc=rpc,
        network=network,
        sender=sender,
        http_allowed=(callbacks.url,),
        signing=callbacks.signing,
        deliveries=deliveries,
        contracts={name: entry.address for name, entry in manifest.contracts.items()},
    )
    backend = backend_of(settings, runner, network.chain_id)
    runs = Runs(events, following, backend, rpc, network.chain_id, grants.input)
    executor = Executor(events, following, reader, sender, runs, factory, usdc, Vouchers(engine).of)
    claims = ClaimReader(reading, events, following)
    epochs = EpochReader(reading, following, client)
    breaches = Breaches(following, claims, runs, rpc)
    try:
        await _resume(runner)
        async with asyncio.TaskGroup() as works:
            works.create_task(following.follow(events), name="log")
            works.create_task(_after_log(following, reader.read_forever()), name="chain")
            works.create_task(runs.reconcile(), name="runs")
            works.create_task(forget_old(Inbox(engine), deliveries, grants), name="forgetting")
            works.create_task(executor.run(), name="executor")
            works.create_task(executor.tend(), name="tend")
            works.create_task(_orphans(executor), name="orphans")
            works.create_task(_after_log(following, claims.read_forever()), name="claims")
            works.create_task(_after_log(following, epochs.read_forever()), name="epochs")
            works.create_task(breaches.run(), name="breaches")
            works.create_task(serve_paths(settings, Desk(runner, Shelf(engine), network)), name="paths")
            works.create_task(Hinted(events, Inbox(engine), runs).run(), name="hints")
    finally:
        await runner.close()
        await backend.close()


async def _resume(runner: Runner) -> None:
    """What a dead process left unfinished goes on before anything new begins."""
    while True:
        try:
            log.info("resumed", executions=await runner.resume())
            return
        except AWAY as away:
            log.warning("resuming_delayed", why=str(away) or repr(away))
            await asyncio.sleep(LONGEST_PAUSE_S)


async def _after_log(following: Following, reading: Coroutine[Any, Any, None]) -> None:
    try:
        await following.caught_up.wait()
    except asyncio.CancelledError:
        reading.close()
        raise
    log.info("caught_up", sequence=following.view.sequence)
    await reading


async def _orphans(executor: Executor) -> None:
    await executor.reader.ready.wait()
    while True:
        try:
            await close_orphans(executor)
            return
        except AWAY as away:
            log.warning("orphans_delayed", why=str(away) or repr(away))
            await asyncio.sleep(LONGEST_PAUSE_S)


async def run(settings: Settings) -> None:
    """Until SIGTERM or SIGINT, or until something fails that no waiting cures: then with its error."""
    client = await bus.connect(settings, "keeper")
    try:
        events = await EventLog.open(client, Writer.load(settings.seeds_dir / "keeper.nk"))
        log.info("ready")
        await until_stopped(keep(settings, client, events, Following()))
    finally:
        await bus.close(client)
    log.info("stopped")


def main() -> None:
    settings = Settings()
    configure(settings.log_level)
    asyncio.run(run(settings))


if __name__ == "__main__":
    main()
