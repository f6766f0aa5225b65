"""Callbacks lost, late, repeated, in another order, forged or never sent: the log comes to the same.

A keeper and a gateway as processes, a real chain; between runner and webhook stands a proxy.
"""

import asyncio
import contextlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from events import workflow
from services.keeper.deliveries import Deliveries
from services.keeper.hook_secret import HookSecret
from services.keeper.inbox import Inbox
from services.keeper.sending import HandSender
from tests.callbacks import Received
from tests.hook_proxy import (
    HOUR_S,
    HookProxy,
    dropped,
    forged_first,
    held_back,
    hook_proxy,
    passed_on,
    switched_off,
    ten_times,
    unsigned_lie_first,
)
from tests.keeping import House, house
from tests.projecting import ROOT

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
WITHIN_S = 120.0
FORGED = 4
"""Forgeries per callback of `forged_first`."""
ATTEMPTS = 4
"""Of every callback, as the workflow files have it."""


@dataclass
class Stage:
    """`number` of the next session."""

    here: House
    proxy: HookProxy
    gateway_url: str
    number: int = 800

    async def session(self) -> str:
        """Paid, asked in once, stopped, settled; its key. Every run of it has ended."""
        self.number += 1
        key, _ = await self.here.pay(self.number)
        await self.here.start(key, 1)
        await self.here.flows(key, 1)
        await self.here.chain.wait(5)
        await self.here.end(key, 1)
        await self.here.flows(key, 0)
        await self.here.close(key)
        await self.here.settled(key)
        for run_id in await self.runs_of(key):
            await self.here.until("workflow", run_id, lambda state: state.ended is not None)
        return key

    async def runs_of(self, key: str) -> list[str]:
        return [
            item.aggregate_id
            for item in await self.here.history()
            if isinstance(item.event, workflow.Requested) and item.event.subject_id == key
        ]

    async def story_of(self, key: str) -> dict[str, Any]:
        """What the log says of a session, without times, ids and the amounts that time makes."""
        history = await self.here.history()
        runs = await self.runs_of(key)
        story: dict[str, Any] = {
            kind: [item.type for item in history if (item.kind, item.aggregate_id) == (kind, key)]
            for kind in ("session", "stream")
        }
        story["runs"] = []
        for run_id in runs:
            run = await self.here.state("workflow", run_id)
            asked = run.requested
            sent = [transaction.node_id for transaction in run.ended.transactions]
            told = (asked.workflow, asked.step, asked.attempt, type(run.ended).__name__, sent)
            story["runs"].append((*told, [item.type for item in history if item.aggregate_id == run_id]))
        return story

    async def outcomes_of(self, key: str) -> Counter[str]:
        """What the keeper made of this session's callbacks, once it has judged all that there are."""
        inbox = Inbox(self.here.engine)
        runs = await self.runs_of(key)
        deadline = time.monotonic() + WITHIN_S
        while any(hint.run_key in runs for hint in await inbox.unmarked()):
            assert time.monotonic() < deadline, await inbox.unmarked()
            await asyncio.sleep(0.05)
        query = text("SELECT outcome FROM webhook_inbox WHERE run_key = ANY(:runs)")
        async with self.here.engine.connect() as connection:
            return Counter((await connection.execute(query, {"runs": runs})).scalars())

    async def counted(self) -> dict[str, float]:
        async with httpx.AsyncClient(trust_env=False) as http:
            answer = await http.get(f"{self.gateway_url}/metrics")
        return {
            sample.labels["reason"]: sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
            if sample.name == "computepool_callbacks_forged_total"
        }

    async def release(self, what: str, ago_s: int = 0, *, backwards: bool = False) -> None:
        """What was held back arrives now, as it was signed then."""
        for sent in reversed(self.proxy.held) if backwards else list(self.proxy.held):
            await self.proxy.forward(what, self.proxy.signed(sent, ago_s=ago_s))


@contextlib.asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    async with house() as here, hook_proxy(HookSecret.of(here.around.settings)) as proxy:
        here.callbacks = Received(proxy.url)
        async with gateway(here, proxy.url) as url:
            proxy.target = f"{url}/webhooks/keeperhub"
            async with here.running():
                yield Stage(here, proxy, url)


@contextlib.asynccontextmanager
async def gateway(here: House, public_url: str) -> AsyncIterator[str]:
    """A gateway as the product runs it, on the house's log and database; its own URL."""
    environment = os.environ | {
        "DATABASE_URL": here.around.url,
        "NATS_URL": here.around.settings.nats_url or "",
        "COMPUTEPOOL_STATE_DIR": str(here.around.settings.state_dir),
        "COMPUTEPOOL_NATS_SEEDS_DIR": str(here.around.settings.seeds_dir),
        "COMPUTEPOOL_GATEWAY_PORT": "0",
        "COMPUTEPOOL_GATEWAY_URL": public_url,
    }
    with (here.around.nats.directory / "gateway.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.gateway"),
            cwd=ROOT,
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
        )
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), WITHIN_S)
        yield f"http://127.0.0.1:{json.loads(line)['listening']['port']}"
    finally:
        process.kill()
        await process.wait()


async def test_whatever_happens_to_callbacks_the_log_says_the_same() -> None:
    async with stage() as on:
        undisturbed = await on.session()
        story = await on.story_of(undisturbed)
        told = len(story["runs"])
        assert (await on.outcomes_of(undisturbed), on.proxy.seen) == ({"applied": told}, told)
        for fault in (lost, late, repeated, in_another_order, stolen, lied_about, off):
            await fault(on, story, told)
        report = await on.here.sound()
        assert report.settled == 8


async def lost(on: Stage, story: dict[str, Any], told: int) -> None:
    on.proxy.fault = dropped
    key = await on.session()
    assert await on.story_of(key) == story
    assert await on.outcomes_of(key) == {}


async def late(on: Stage, story: dict[str, Any], told: int) -> None:
    """By an hour: its signature is too old; signed again, it is taken and changes nothing."""
    on.proxy.fault = held_back
    key = await on.session()
    before = await on.story_of(key)
    await on.release("an hour late", HOUR_S)
    await on.release("an hour late, signed again")
    assert on.proxy.statuses["an hour late", 401] == told
    assert on.proxy.statuses["an hour late, signed again", 200] == told
    assert await on.outcomes_of(key) == {"stale": told}
    assert await on.story_of(key) == before == story
    on.proxy.held.clear()


async def repeated(on: Stage, story: dict[str, Any], told: int) -> None:
    on.proxy.fault = ten_times
    taken = on.proxy.statuses["true", 200]
    key = await on.session()
    assert await on.outcomes_of(key) == {"applied": told}
    assert on.proxy.statuses["true", 200] - taken == 10 * told
    assert await on.story_of(key) == story


async def in_another_order(on: Stage, story: dict[str, Any], told: int) -> None:
    on.proxy.fault = held_back
    key = await on.session()
    await on.release("backwards", backwards=True)
    assert on.proxy.statuses["backwards", 200] == told
    assert await on.outcomes_of(key) == {"stale": told}
    assert await on.story_of(key) == story
    on.proxy.held.clear()


async def stolen(on: Stage, story: dict[str, Any], told: int) -> None:
    on.proxy.fault = forged_first
    before = await on.counted()
    key = await on.session()
    after = await on.counted()
    for what in ("wrong key", "old timestamp", "altered body", "replayed under another delivery"):
        assert on.proxy.statuses[what, 401] == told, what
    assert on.proxy.statuses["replayed", 200] == told, "a duplicate, which does nothing"
    assert sum(after.values()) - sum(before.values()) == FORGED * told
    assert await on.outcomes_of(key) == {"applied": told}
    assert await on.story_of(key) == story


async def lied_about(on: Stage, story: dict[str, Any], told: int) -> None:
    """By who has the run's own capability: the chain tells the lie from the truth that comes behind it."""
    on.proxy.fault = unsigned_lie_first
    key = await on.session()
    assert on.proxy.statuses["true by capability", 200] == told
    assert await on.outcomes_of(key) == {"applied": told, "mismatch": told}
    assert await on.story_of(key) == story


async def off(on: Stage, story: dict[str, Any], told: int) -> None:
    """Every attempt fails: everything is found by polling. What was told can be sent again by hand."""
    on.proxy.fault = switched_off
    key = await on.session()
    assert await on.story_of(key) == story
    assert await on.outcomes_of(key) == {}
    deliveries, runs = Deliveries(on.here.engine), await on.runs_of(key)
    missed = [one for one in await deliveries.newest(100) if one.said("run_key") in runs]
    assert [[attempt.status for attempt in one.attempts] for one in missed] == [[None] * ATTEMPTS] * told
    on.proxy.fault = passed_on
    async with httpx.AsyncClient(trust_env=False) as http:
        sender = HandSender(http, on.proxy.secret, deliveries)
        assert all([(await sender.again(one)).taken for one in missed])
    assert await on.outcomes_of(key) == {"stale": told}
    assert await on.story_of(key) == story
