"""What the gateway says when parts of the house go away, and when it is asked to stop itself: one story
in order.
"""

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from shard_runtime import messages
from tests.contract.gateway_house import House, Peer, form, house, until

ASK = {"model": "tales", "messages": [{"role": "user", "content": "Tell me a story about a brave otter."}]}


async def never_ends(peer: Peer, command: messages.Generate, content: messages.SealedContent) -> None:
    await peer.say(command, 0, "Once ", ids=(0,))


async def readiness(built: House) -> dict[str, Any]:
    async with built.client(None) as client:
        return dict((await client.get("/readyz")).json())


async def until_ready(built: House) -> None:
    async def ready() -> bool:
        return bool((await readiness(built))["ready"])

    await until(ready)


async def lines_of(client: httpx.AsyncClient, begun: asyncio.Event) -> str:
    """A whole streamed answer; `begun` is set at its first token."""
    seen = []
    async with client.stream("POST", "/v1/chat/completions", json={**ASK, "stream": True}) as answer:
        async for line in answer.aiter_lines():
            seen.append(line)
            if "Once" in line:
                begun.set()
    return "\n".join(seen)


@pytest.mark.long
async def test_each_part_that_goes_away_is_named_and_streams_end_with_a_word(tmp_path: Path) -> None:
    async with house(tmp_path) as built:
        peer = await Peer.join(built, "only", never_ends)
        await form(built, [peer], "tales")
        await until_ready(built)
        key = await built.new_key()
        await a_silent_shard_ends_its_stream(built, peer, key)
        await the_silent_shard_is_named(built, peer, key)
        await an_orchestrator_that_is_away_is_named(built)
        await built.start("orchestrator")
        await peer.connect()
        await until_ready(built)
        await a_projector_that_is_away_makes_reads_wait_and_say_so(built)
        await built.start("projector")
        await until_ready(built)
        await a_stopping_gateway_tells_its_streams(built, key)
        await peer.leave()


async def a_silent_shard_ends_its_stream(built: House, peer: Peer, key: str) -> None:
    begun = asyncio.Event()
    async with built.client(key) as client:
        reading = asyncio.create_task(lines_of(client, begun))
        await asyncio.wait_for(begun.wait(), 30)
        session_id = peer.generated[-1][0].session_id
        await peer.leave()
        text = await asyncio.wait_for(reading, 30)

        async def ended() -> bool:
            shown = (await client.get(f"/sessions/{session_id}")).json()
            return bool(shown["status"] == "settled" and shown["request_list"][0]["finish_reason"] == "error")

        await until(ended)
    assert '"code":"shard_lost"' in text
    assert "[DONE]" not in text


async def the_silent_shard_is_named(built: House, peer: Peer, key: str) -> None:
    found = await readiness(built)
    assert found["failing"] == ["pools"]
    assert peer.node_id in json.dumps(found["parts"]["pools"])
    async with built.client(key) as client:
        refused = await client.post("/v1/chat/completions", json=ASK)
        metrics = (await client.get("/metrics")).text
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "pool_unavailable"
    assert "computepool_requests_in_flight 0.0" in metrics


async def an_orchestrator_that_is_away_is_named(built: House) -> None:
    assert await built.services["orchestrator"].stop() == 0

    async def named() -> bool:
        return "orchestrator" in (await readiness(built))["failing"]

    await until(named)
    async with built.client() as client:
        away = await client.post("/pools", json={"name": "x", "model": "tales", "weights_digest": "00" * 32})
    assert away.status_code == 503
    assert away.json()["code"] == "orchestrator_away"
    assert away.json()["retryable"] is True


async def a_projector_that_is_away_makes_reads_wait_and_say_so(built: House) -> None:
    await built.services["projector"].stop(signal.SIGKILL)
    async with built.client() as client:
        opened = (await client.post("/sessions", json={"model": "tales"})).json()
        behind = await client.get("/sessions", params={"at_least": opened["position"]})
    assert behind.status_code == 503
    assert behind.json()["code"] == "not_yet_projected"


async def a_stopping_gateway_tells_its_streams(built: House, key: str) -> None:
    gateway, begun = built.services["gateway"], asyncio.Event()
    async with built.client(key) as client:
        reading = asyncio.create_task(lines_of(client, begun))
        await asyncio.wait_for(begun.wait(), 30)
        gateway.process.send_signal(signal.SIGTERM)
        text = await asyncio.wait_for(reading, 30)
    assert '"code":"gateway_stopping"' in text
    assert "[DONE]" not in text
    assert await gateway.stop() == 0
