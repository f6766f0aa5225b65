"""What the embedded runner costs: its own time for stream-start beside its chain calls, and runs per
second.

`computepool bench keeper`. A real PostgreSQL that waits for its disk at every commit, a real anvil with the
real contracts that makes a block at once for every transaction, and a callback server in another process.
"""

import asyncio
import logging
import multiprocessing
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import structlog
from aiohttp import web
from sqlalchemy.ext.asyncio import AsyncEngine

from services.chain.rpc import Receipt, Rpc, connected
from services.chain.sender import Entry, Sender
from services.credentials import engine_of
from services.keeper.definitions import definition_of
from services.keeper.runner.actions.step import Signing
from services.keeper.runner.runner import Runner
from services.migrate import upgrade
from services.stack import postgres
from tests.anvil import LOCAL, deployed_chain
from tests.bench.report import report
from tests.contract.runner.conformance.row import export, node
from tests.workflow_world import SENDER, WorkflowWorld

Say = Callable[[str], None]
WITHIN_S = 60.0
AT_ONCE = 16


class TimedRpc(Rpc):
    """Adds up the time in which the chain was asked; one question at a time."""

    awaited_s = 0.0

    async def ask(self, method: str, *params: object) -> Any:
        begun = time.perf_counter()
        try:
            return await super().ask(method, *params)
        finally:
            self.awaited_s += time.perf_counter() - begun


class TimedSender(Sender):
    """Adds up the time from a call to its confirmed receipt, its own journal included."""

    awaited_s = 0.0

    async def submit(self, intent: str, to: str, data: bytes, **more: Any) -> Entry:
        begun = time.perf_counter()
        try:
            return await super().submit(intent, to, data, **more)
        finally:
            self.awaited_s += time.perf_counter() - begun

    async def outcome(self, intent: str, within_s: float | None = None) -> Receipt:
        begun = time.perf_counter()
        try:
            return await super().outcome(intent, within_s)
        finally:
            self.awaited_s += time.perf_counter() - begun


async def measure(say: Say, quick: bool = False) -> dict[str, object]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    rounds, runs = (3, 20) if quick else (60, 1_000)
    async with database() as url, callback_server() as callback:
        engine = engine_of(url)
        try:
            own, beside_rpc = await _overhead_ms(engine, callback, rounds, say)
            per_s = await _runs_per_s(engine, runs, say)
        finally:
            await engine.dispose()
    return {
        "run_overhead_ms_p50": round(median(own), 2),
        "run_overhead_ms_p95": round(sorted(own)[int(0.95 * (len(own) - 1))], 2),
        "run_beside_rpc_ms_p50": round(median(beside_rpc), 2),
        "runs_per_s": round(per_s, 1),
        "rounds": rounds,
        "runs": runs,
    }


async def _overhead_ms(
    engine: AsyncEngine, callback: str, rounds: int, say: Say
) -> tuple[list[float], list[float]]:
    """Of each stream-start: its time without that of its chain call (from the call to the confirmed
    receipt), and its time without that of the RPC's answers only, so with the sender's own journal.
    """
    own, beside_rpc = [], []
    async with deployed_chain() as (plain, manifest), connected(plain.url) as connected_:
        rpc = TimedRpc(plain.url, connected_._client)
        sender = TimedSender(rpc, LOCAL, SENDER, engine)
        world = WorkflowWorld(plain, manifest, callback)
        await world.prepare()
        signing = Signing(callback, "key-1", b"secret")
        runner = Runner(
            engine, rpc=rpc, network=LOCAL, sender=sender, http_allowed=(callback,), signing=signing
        )
        workflow = await runner.ensure_workflow(definition_of("stream-start"))
        for number in range(rounds + 1):
            given = await world.start(number + 100)
            begun, called, asked = time.perf_counter(), sender.awaited_s, rpc.awaited_s
            ended = await runner.wait(await runner.execute(workflow, given, f"start {number}"), WITHIN_S)
            whole = time.perf_counter() - begun
            assert ended.status == "success", ended.error
            if number:  # the first one connects
                own.append(1000 * (whole - (sender.awaited_s - called)))
                beside_rpc.append(1000 * (whole - (rpc.awaited_s - asked)))
        await runner.close()
    say(f"stream-start: {median(own):.2f} ms beside its chain call, {rounds} runs")
    return own, beside_rpc


async def _runs_per_s(engine: AsyncEngine, runs: int, say: Say) -> float:
    """A trigger and a Condition, so many at once."""
    runner = Runner(engine)
    workflow = await runner.ensure_workflow(
        export("two nodes", (node("if", "Condition", condition="{{@trigger:Trigger.n}} >= 0"),), "trigger>if")
    )
    numbers = iter(range(runs))

    async def work() -> None:
        for number in numbers:
            execution = await runner.execute(workflow, {"n": number}, f"run {number}")
            assert (await runner.wait(execution, WITHIN_S)).status == "success"

    begun = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    per_s = runs / (time.perf_counter() - begun)
    await runner.close()
    say(f"two nodes: {per_s:.1f} runs/s, {AT_ONCE} at once")
    return per_s


@asynccontextmanager
async def database() -> AsyncIterator[str]:
    """PostgreSQL as the stack starts it: what is committed is on the disk."""
    with tempfile.TemporaryDirectory(prefix="bench-keeper-") as folder:
        Path(folder).chmod(0o755)
        running = await postgres.start(Path(folder) / "data", Path(folder) / "log")
        try:
            await asyncio.to_thread(upgrade, running.url("postgres"))
            yield running.url("postgres")
        finally:
            await running.stop(immediate=True)


@asynccontextmanager
async def callback_server() -> AsyncIterator[str]:
    """Takes every callback, in a process of its own, so that its work is not the runner's."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(there,), daemon=True)
    process.start()
    try:
        yield await asyncio.to_thread(here.recv)
    finally:
        process.terminate()
        await asyncio.to_thread(process.join)


def _serve(told: "Connection[str, str]") -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"received": True})

    async def serve() -> None:
        app = web.Application()
        app.router.add_post("/webhooks/keeperhub", answer)
        served = web.AppRunner(app)
        await served.setup()
        await web.TCPSite(served, "127.0.0.1", 0).start()
        told.send(f"http://127.0.0.1:{served.addresses[0][1]}/webhooks/keeperhub")
        await asyncio.Event().wait()

    asyncio.run(serve())


def main(json: bool = False, quick: bool = False) -> None:
    """Print what is measured as it comes (to stderr with `json`), one JSON object last on stdout; keep it."""
    report("keeper", measure, json, quick)
