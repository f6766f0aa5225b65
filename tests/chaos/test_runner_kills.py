"""The runner's process killed at every boundary of every workflow: one transaction per write, the same
outputs.
"""

import asyncio
import contextlib
import json
import multiprocessing
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from services.chain.rpc import Rpc
from services.chain.sender import Sender
from services.credentials import engine_of
from services.keeper.definitions import definition_of
from services.keeper.runner.actions.step import Signing
from services.keeper.runner.runner import Runner
from tests import killed_runner
from tests.anvil import LOCAL, deployed_chain
from tests.killed_runner import WITHIN_S, Task
from tests.postgres import database
from tests.workflow_world import SENDER, Stage, WorkflowWorld

pytestmark = [pytest.mark.long, pytest.mark.timeout(1500)]
HASH = re.compile(r"0x[0-9a-f]{64}\b")
UNEQUAL = re.compile(r'"(timestamp|triggeredAt|blockHash|gas\w+|effectiveGasPrice)": ("[^"]*"|\d+)')
MOST_BOUNDARIES = 60


class Callbacks:
    """Where workflows call back; every delivery with its bodies."""

    def __init__(self) -> None:
        self.got: dict[str, set[str]] = {}

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.text()
        self.got.setdefault(request.headers["X-KeeperHub-Delivery"], set()).add(body)
        return web.json_response({"received": True})

    @contextlib.asynccontextmanager
    async def served(self) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_post("/webhooks/keeperhub", self.answer)
        served = web.AppRunner(app)
        await served.setup()
        await web.TCPSite(served, "127.0.0.1", 0).start()
        host, port = served.addresses[0][:2]
        try:
            yield f"http://{host}:{port}/webhooks/keeperhub"
        finally:
            await served.cleanup()


@contextlib.asynccontextmanager
async def runner_on(rpc: Rpc, database_url: str, callback_url: str) -> AsyncIterator[Runner]:
    engine = engine_of(database_url)
    sender = Sender(rpc, LOCAL, SENDER, engine)
    signing = Signing(callback_url, "key-1", b"secret")
    runner = Runner(
        engine, rpc=rpc, network=LOCAL, sender=sender, http_allowed=(callback_url,), signing=signing
    )
    try:
        yield runner
    finally:
        await runner.close()
        await engine.dispose()


async def finish(runner: Runner, stage: Stage) -> Any:
    """What a keeper does after a restart: it goes on, and asks again under the same key."""
    await runner.resume()
    workflow = await runner.ensure_workflow(definition_of(stage.workflow))
    execution = await runner.execute(workflow, stage.input, stage.name)
    found = await runner.wait(execution, WITHIN_S)
    assert (found.status, found.error) == ("success", None)
    assert len(await runner.list_executions(workflow)) == 1
    return plain({(log.node_id, log.iteration): log.output for log in await runner.logs(execution)})


def plain(outputs: dict[tuple[str, int | None], Any]) -> str:
    """Without times and prices of gas, hashes by the order of their appearance."""
    said = json.dumps(sorted((node, iteration or 0, output) for (node, iteration), output in outputs.items()))
    seen: dict[str, str] = {}
    numbered = HASH.sub(lambda match: seen.setdefault(match[0], f"hash {len(seen)}"), said)
    return UNEQUAL.sub("", numbered)


async def killed(task: Task) -> bool:
    """Whether the process reached its boundary."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.killed_runner"])
    process = context.Process(target=killed_runner.run, args=(task,))
    process.start()
    await asyncio.to_thread(process.join, WITHIN_S)
    assert process.exitcode in (0, -9), process.exitcode
    return process.exitcode == -9


async def test_a_runner_killed_at_any_boundary_is_followed_by_one_that_ends_the_same() -> None:
    callbacks = Callbacks()
    async with deployed_chain() as (rpc, manifest), callbacks.served() as url:
        world = WorkflowWorld(rpc, manifest, url)
        await world.prepare()
        total = 0
        for stage in await world.stages():
            await world.later(stage.later_s)
            total += await killed_everywhere(rpc, stage, url, callbacks)
        assert total > 70


async def killed_everywhere(rpc: Rpc, stage: Stage, url: str, callbacks: Callbacks) -> int:
    """How many boundaries the stage's workflow has. The chain is left as after an undisturbed run."""
    before, fresh = await rpc.nonce(SENDER.address), await rpc.ask("evm_snapshot")
    expected: str | None = None
    for boundary in range(-1, MOST_BOUNDARIES):
        callbacks.got.clear()
        async with database() as database_url:
            reached = True
            if boundary >= 0:
                definition = definition_of(stage.workflow)
                task = Task(database_url, rpc.url, url, definition, stage.input, stage.name, boundary)
                reached = await killed(task)
            async with runner_on(rpc, database_url, url) as runner:
                outputs = await finish(runner, stage)
        expected = outputs if expected is None else expected
        where = f"{stage.name} at {boundary}"
        assert outputs == expected, where
        assert await rpc.nonce(SENDER.address) == before + stage.writes, where
        assert [len(bodies) for bodies in callbacks.got.values()] == [1], where
        if not reached:
            return boundary
        assert await rpc.ask("evm_revert", fresh), where
        fresh = await rpc.ask("evm_snapshot")
    raise AssertionError(f"{stage.name} has no end")
