"""A thousand requests with cancels at random moments: every one ends, and nothing of any is left behind."""

import asyncio
import json
import os
import random
from collections import Counter
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import openai
import pytest
from nats.aio.client import Client

from events.envelope import decode_commit
from events.session import GenerationEnded, RequestStarted
from services.dispatch import send
from services.log import EventLog
from shard_runtime.messages import Cancel
from tests.e2e.network import LABELS, POOL, WITHIN_S, Network, network

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

REQUESTS = int(os.environ.get("COMPUTEPOOL_SOAK_REQUESTS", "1000"))
AT_ONCE = 6
"""More than the pool's four KV slots, so that some always wait."""
SAMPLE_EVERY = 10
SLOPE_BYTES = 2048
"""Per request, over the second half. What is kept on purpose, the ids and ends of the last some thousand
requests, is some hundreds of bytes for each; a leaked subscription, task, answer or KV slot is more."""
WATCHED = ("worker-north", "worker-south", "mesh-north", "mesh-south", "gateway")
ASK: Any = [
    {"role": "user", "content": "Tell me a story about a brave fox called Mira who finds an old key."}
]


def private_bytes(pid: int) -> int:
    """Anonymous memory, swapped or not: what a leak grows, whatever the kernel does with cold pages."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    kib = {
        line.split(":")[0]: int(line.split()[1]) for line in status if line.startswith(("RssAnon", "VmSwap"))
    }
    return 1024 * sum(kib.values())


def slope(samples: list[tuple[int, int]]) -> float:
    """Theil-Sen: the median of the slopes between all pairs, which a few jumps do not move."""
    return median((y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in combinations(samples, 2) if x2 > x1)


class Soak:
    def __init__(self, net: Network, commands: Client) -> None:
        self.net, self.commands = net, commands
        self.random = random.Random(7)
        self.ends: Counter[str] = Counter()
        self.memory: dict[str, list[tuple[int, int]]] = {name: [] for name in WATCHED}
        self.client = net.openai()

    async def request(self) -> None:
        dice = self.random.random()
        if dice < 0.4:
            await self.whole(self.random.randint(1, 12))
        elif dice < 0.7:
            await self.hang_up(self.random.choice((None, 0, 1, 2, 5, 9, 20)))
        else:
            await self.cancelled(self.random.choice((0, 1, 3, 8, 15)))
        done = sum(self.ends.values())
        if done % SAMPLE_EVERY == 0:
            pids = {e.name: e.identity.pid for e in self.net.stack.supervisor.entries()}
            for name in WATCHED:
                self.memory[name].append((done, private_bytes(pids[name])))

    async def whole(self, tokens: int) -> None:
        answer = await self.client.chat.completions.create(
            model=POOL, messages=ASK, temperature=2.0, seed=self.random.getrandbits(31), max_tokens=tokens
        )
        assert answer.usage is not None
        assert answer.choices[0].finish_reason in ("stop", "length")
        self.ends["whole"] += 1

    async def hang_up(self, after: int | None) -> None:
        """The client leaves after so many pieces; None: before the answer began."""
        asking = asyncio.ensure_future(self.stream())
        if after is None:
            for _ in range(self.random.randint(1, 30)):
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        else:
            _, answer = await asking
            await self.read(answer, after)
            await answer.close()
        self.ends["hung up"] += 1

    async def cancelled(self, after: int) -> None:
        """The network's own command ends it after so many pieces."""
        headers, answer = await self.stream()
        try:
            await self.read(answer, after)
            entry, request_id = self.net.node_ids[0], headers["x-computepool-request"]
            epoch = int(headers["x-computepool-epoch"])
            command = Cancel(f"soak-{request_id}", self.net.pool["pool_id"], epoch, request_id, "soak")
            await send(self.commands, entry, command)
            await self.read(answer, None)
        except openai.APIError as told:
            if told.code != "generation_cancelled":
                raise
            self.ends["cancelled"] += 1
        else:
            self.ends["ended before its cancel"] += 1

    async def stream(self) -> tuple[httpx.Headers, Any]:
        raw = await self.client.chat.completions.with_raw_response.create(
            model=POOL,
            messages=ASK,
            temperature=2.0,
            seed=self.random.getrandbits(31),
            max_tokens=120,
            stream=True,
        )
        return raw.headers, raw.parse()

    async def read(self, answer: Any, pieces: int | None) -> None:
        """So many pieces of an answer; None: to its end."""
        read = 0
        while pieces is None or read < pieces:
            try:
                await anext(answer)
            except StopAsyncIteration:
                return
            read += 1


async def unended(net: Network) -> tuple[int, set[str]]:
    """How many requests the log knows, and those of them that have not ended."""
    started, ended = set(), set()
    async with net.role("auditor") as client:
        async for message in (await EventLog.open(client, None)).read(0, follow=False):
            commit = decode_commit(message.subject, message.sequence, message.headers, message.payload)
            for recorded in commit:
                if isinstance(recorded.event, RequestStarted):
                    started.add(recorded.event.request_id)
                elif isinstance(recorded.event, GenerationEnded):
                    ended.add(recorded.event.request_id)
    return len(started), started - ended


async def all_end(net: Network) -> int:
    """Waits until no request is open anywhere; how many the log knows."""
    await net.idle()
    deadline = asyncio.get_running_loop().time() + WITHIN_S
    while True:
        known, still_open = await unended(net)
        if not still_open:
            return known
        assert asyncio.get_running_loop().time() < deadline, f"without an end: {still_open}"
        await asyncio.sleep(0.2)


def last_words(log: Path) -> tuple[int, bool]:
    """Of a worker that stopped: its open requests, and whether no frame of any waited for anything."""
    lines = [json.loads(line) for line in log.read_text().splitlines() if '"event": "frames"' in line]
    assert lines, "the worker did not say"
    return lines[-1]["open_requests"], lines[-1]["quiet"]


async def test_a_thousand_requests_leave_nothing_behind(tmp_path: Path) -> None:
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(soak: Soak) -> None:
        async with turns:
            await soak.request()

    async with network(tmp_path / "state") as net:
        async with net.role("gateway") as commands:
            soak = Soak(net, commands)
            await asyncio.gather(*(one(soak) for _ in range(REQUESTS)))
        assert sum(soak.ends.values()) == REQUESTS
        known = await all_end(net)
        await net.idle()
    slopes = {name: slope(samples[len(samples) // 2 :]) for name, samples in soak.memory.items()}
    rounded = {name: round(bytes_per_request) for name, bytes_per_request in slopes.items()}
    print(json.dumps({"ends": soak.ends, "known": known, "bytes_per_request": rounded}))
    assert min(soak.ends[kind] for kind in ("whole", "hung up", "cancelled")) > REQUESTS // 10
    assert known > 0.8 * REQUESTS, "too many hung up before they were heard"
    assert max(slopes.values()) < SLOPE_BYTES, rounded
    for label in LABELS:
        assert last_words(tmp_path / "state" / "logs" / f"worker-{label}.log") == (0, True)
