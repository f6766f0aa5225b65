"""Each process of a working network killed once under load: what was promised holds afterwards."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest

from services.log import EventLog
from services.projection_check import check, replayed
from services.stack.identity import marked
from tests.contract.gateway_house import until
from tests.e2e.network import POOL, WITHIN_S, Network, network

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

ASK: Any = [{"role": "user", "content": "Tell me a story about a brave fox named Mira."}]
CLIENTS = 2
MOST_REQUESTS = 2000
MOST_TOKENS = 96
EARLY = range(3, 30)
"""So many pieces of an answer were given: it has begun, and most of it is still to come."""
LOST_WITHIN_S = 60.0
"""An unacknowledged command comes again after 30 s."""
VICTIMS = ("gateway", "orchestrator", "projector", "nats", "postgres", "worker-north", "mesh-south")


class Load:
    """Clients that ask one request after the other; a failure is counted and the next one asked."""

    def __init__(self, net: Network) -> None:
        self.net = net
        self.outcomes: Counter[str] = Counter()
        self.stop = asyncio.Event()
        self.pieces: dict[int, int] = {}
        """How many pieces each answer under way has given so far."""

    async def client(self, number: int) -> None:
        asked = 0
        while not self.stop.is_set() and asked < MOST_REQUESTS:
            asked += 1
            self.outcomes[await self.one(number * MOST_REQUESTS + asked)] += 1
            await asyncio.sleep(0.05)

    async def one(self, seed: int) -> str:
        client = self.net.openai()
        try:
            stream = await client.chat.completions.create(
                model=POOL, messages=ASK, seed=seed, temperature=1, max_tokens=MOST_TOKENS, stream=True
            )
            finish = None
            async for chunk in stream:
                self.pieces[seed] = self.pieces.get(seed, 0) + 1
                for choice in chunk.choices:
                    finish = choice.finish_reason or finish
            return finish or "silent_end"
        except openai.APIConnectionError:
            return "connection"
        except openai.APIStatusError as refused:
            return f"http_{refused.status_code}"
        except openai.APIError as failed:
            return str(failed.code or "stream_broken")
        except Exception as broken:  # the connection of a killed gateway ends in many ways
            return type(broken).__name__
        finally:
            self.pieces.pop(seed, None)
            await client.close()

    async def in_mid_answer(self) -> bool:
        return any(given in EARLY for given in self.pieces.values())

    async def has_lost_more(self, told: Counter[str]) -> bool:
        """Whether a client hears of a lost shard soon: the restarted worker is told of its request again."""
        deadline = time.monotonic() + LOST_WITHIN_S
        while self.outcomes["shard_lost"] <= told["shard_lost"]:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.05)
        return True


@contextlib.asynccontextmanager
async def under_load(net: Network) -> AsyncIterator[Load]:
    load = Load(net)
    clients = [asyncio.create_task(load.client(number)) for number in range(CLIENTS)]
    try:
        yield load
    finally:
        load.stop.set()
        await asyncio.gather(*clients)


async def text_of(net: Network) -> str:
    answer = await net.openai().chat.completions.create(
        model=POOL, messages=ASK, temperature=0, max_tokens=40
    )
    return answer.choices[0].message.content or ""


async def answers(net: Network, load: Load) -> bool:
    """Ready, and at least one request of the load has ended well from now on."""
    good = load.outcomes["stop"] + load.outcomes["length"]

    async def one_more() -> bool:
        return load.outcomes["stop"] + load.outcomes["length"] > good

    await until(net.ready, WITHIN_S)
    await until(one_more, WITHIN_S)
    return True


async def test_every_process_may_be_killed_once_under_load(tmp_path: Path) -> None:
    async with network(tmp_path / "state") as net:
        before = await text_of(net)
        async with under_load(net) as load:
            await answers(net, load)
            for victim in VICTIMS:
                told = Counter(load.outcomes)
                for _ in range(3):  # an answer may come to its end in the moment before the kill
                    await until(load.in_mid_answer, WITHIN_S)
                    await net.kill(victim)
                    await net.restart(victim)
                    await answers(net, load)
                    if victim != "worker-north" or await load.has_lost_more(told):
                        break
                felt = load.outcomes - told
                print(victim, dict(felt))
                assert victim != "worker-north" or felt["shard_lost"], felt
        print(dict(load.outcomes))
        assert load.outcomes["silent_end"] == 0, load.outcomes
        await net.idle()
        assert await text_of(net) == before

        async def all_closed() -> bool:
            async with net.rest(net.operator) as rest:
                page = (await rest.get("/sessions", params={"limit": 200})).json()
                statuses = {row["status"] for row in page["items"]}
                while page["has_more"]:
                    after = page["items"][-1]["session_id"]
                    page = (await rest.get("/sessions", params={"limit": 200, "after": after})).json()
                    statuses |= {row["status"] for row in page["items"]}
            return statuses <= {"settled", "expired"}

        await until(all_closed, 240)
        report = await net.audit()
        assert report.findings == ()
        async with net.rest(net.operator) as rest:
            shown = await rest.get("/sessions", params={"at_least": report.messages, "limit": 1})
        assert shown.status_code == 200, shown.text
        compared = await check(net.settings)
        assert compared.sequence >= report.messages, "a projector that stands still agrees with its own past"
        assert compared.differences == ()
        ended = await request_statuses(net, compared.sequence)
        assert ended.total() > sum(load.outcomes[reason] for reason in ("stop", "length"))
        assert set(ended) == {"ended"}, ended
        assert len(net.stack.supervisor.alive()) == len(net.stack.supervisor.entries())
        assert marked(net.settings.state_dir), "the mark finds what runs; below it must find nothing"
    assert not net.stack.supervisor.alive()
    assert marked(net.settings.state_dir) == []


async def request_statuses(net: Network, up_to: int) -> Counter[str]:
    """How many requests stand in which status after the message `up_to`, by the log alone."""
    async with net.role("auditor") as client:
        rows = (await replayed(await EventLog.open(client, None), up_to)).rows("requests")
    return Counter(str(row["status"]) for row in rows.values())
