"""An operator leaves, seen from outside: the command line, the client's text, the log, the read model."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from services.join import accept
from services.leave import drain
from services.projection_check import check
from tests.e2e.network import POOL, Network, network

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300), pytest.mark.long]

ASK: Any = [{"role": "user", "content": "Tell me a story about a brave fox called Mira."}]
LONG: dict[str, Any] = {"temperature": 2.0, "seed": 1, "max_tokens": 400}
"""So hot that the model does not come to an end by itself soon."""
SPARE = "west"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def net(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Network]:
    async with network(Path(tmp_path_factory.mktemp("drain")) / "state", spares=(SPARE,)) as running:
        yield running


async def streamed(net: Network) -> tuple[str, str]:
    """(text, session) of one answer, read piece by piece."""
    create = net.openai().chat.completions.with_raw_response.create
    raw = await create(model=POOL, messages=ASK, stream=True, **LONG)
    text = ""
    async for chunk in raw.parse():
        text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
    return text, raw.headers["x-computepool-session"]


async def pool_of(net: Network) -> dict[str, Any]:
    async with net.rest(net.operator) as rest:
        return dict((await rest.get(f"/pools/{net.pool['pool_id']}")).json())


async def leave(net: Network, label: str) -> Any:
    directory, gateway = net.node_dir(label), net.settings.public_url
    return await drain(directory, gateway, net.operator, "an upgrade", 90)


async def test_without_a_successor_a_drain_is_blocked_by_name_and_the_node_serves_on(net: Network) -> None:
    entry = net.node_ids[0]
    left = await leave(net, net.labels[entry])
    assert left.still_in == (net.pool["pool_id"],)
    assert "no_successor" in left.blocked[net.pool["pool_id"]]
    assert len((await streamed(net))[0]) > 100


async def test_once_a_successor_accepts_the_entry_leaves_and_no_answer_notices(net: Network) -> None:
    """Answers to the same question with the same seed are the same text, moved or not."""
    entry, spare = net.node_ids[0], net.node_dir(SPARE)
    expected, _ = await streamed(net)
    answers: list[tuple[str, str]] = []
    gone = asyncio.Event()

    async def ask_on() -> None:
        while not gone.is_set():
            answers.append(await streamed(net))

    async def succeed() -> None:
        await accept(spare, net.pool["pool_id"], net.settings.public_url, net.operator)
        left = await leave(net, net.labels[entry])
        assert left.still_in == ()
        gone.set()

    await asyncio.gather(ask_on(), ask_on(), ask_on(), succeed())
    assert {text for text, _ in answers} == {expected}
    spare_id = next(node_id for node_id, label in net.labels.items() if label == SPARE)
    found = await pool_of(net)
    assert [shard["node_id"] for shard in found["shards"]] == [spare_id, net.node_ids[1]]
    assert (found["leaving"], found["drain_blocked"]) == ([], None)
    histories = [await net.closed(session_id) for _, session_id in answers]
    moved = [history for history in histories if any(e.type == "session.kv_moved.v1" for e in history)]
    assert moved, "no answer was under way when the entry left"
    for history in moved:
        types = [item.type for item in history]
        assert types.index("session.kv_moved.v1") < types.index("session.generation_ended.v1")
        assert types.index("session.request_resumed.v1") < types.index("session.generation_ended.v1")
        async with net.rest(net.operator) as rest:
            params = {"at_least": history[-1].position // 1024}
            shown = (await rest.get(f"/sessions/{history[0].aggregate_id}", params=params)).json()
        [request] = shown["request_list"]
        [move] = request["moves"]
        assert (request["entry_node_id"], request["epoch"]) == (spare_id, 2)
        assert (move["from_node_id"], move["to_node_id"], move["epoch"]) == (entry, spare_id, 2)
        assert move["kv_bytes"] > 0
        assert move["tokens"] > 0
    await net.idle()


async def test_the_leaver_may_stop_and_the_log_and_the_rows_agree(net: Network) -> None:
    await net.kill(net.worker(net.node_ids[0]))
    text, session_id = await streamed(net)
    assert len(text) > 100
    await net.closed(session_id)
    assert (await net.audit()).findings == ()
    assert (await check(net.settings)).differences == ()
