"""The whole network over nodes that offer only the stock API: the same answers, whatever those lose."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import torch
from openai.types.chat import ChatCompletion

from services.join import WORKER_CONFIG_FILE
from shard_runtime.messages import Sampling
from shard_runtime.text import load_tokenizer
from tests.e2e.network import MODEL, POOL, WITHIN_S, Network, network
from tests.exact.generation import generated, whole_model
from tests.mesh_nodes import until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300), pytest.mark.long]

TOKENS = 24
HOT = {"temperature": 1.0, "top_p": 0.95, "seed": 7}
ASKED = [f"Tell me a story about a {animal}." for animal in ("brave fox", "small robot", "wise old whale")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def net(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Network]:
    state_dir = Path(tmp_path_factory.mktemp("stock")) / "state"
    async with network(state_dir, stock_reorder_ms=10) as running:
        yield running


class Alone:
    """What `generate` answers, in one process."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self._model, self._tokenizer = whole_model(MODEL, "float32"), load_tokenizer(MODEL)

    def says(self, prompt: str, count: int = TOKENS, sampling: Sampling | None = None) -> str:
        messages = [{"role": "user", "content": prompt}]
        ids = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        run = generated(self._model, ids, count, sampling)
        return str(self._tokenizer.decode(run.ids, skip_special_tokens=True))


@pytest.fixture(scope="module")
def alone() -> Alone:
    return Alone()


async def ask(net: Network, prompt: str, **options: Any) -> str:
    messages: Any = [{"role": "user", "content": prompt}]
    given = {"model": POOL, "messages": messages, "temperature": 0, "max_tokens": TOKENS, **options}
    answer: ChatCompletion = await net.openai().chat.completions.create(**given)
    return answer.choices[0].message.content or ""


class MeshApi:
    """A node's mesh node over the API that its worker uses."""

    def __init__(self, net: Network, node_id: str) -> None:
        config = json.loads((net.node_dir(net.labels[node_id]) / WORKER_CONFIG_FILE).read_text())
        headers = {"Authorization": f"Bearer {config['axl_token']}"}
        self._http = httpx.AsyncClient(base_url=config["axl_url"], headers=headers, trust_env=False)

    async def key(self) -> str:
        topology = (await self._http.get("/topology")).json()
        assert "extensions" not in topology
        return str(topology["our_public_key"])

    async def send(self, peer: str, message: bytes) -> None:
        answer = await self._http.post("/send", content=message, headers={"X-Destination-Peer-Id": peer})
        assert answer.status_code == 200

    async def count(self, metric: str) -> int:
        lines = (await self._http.get("/metrics")).text.splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{metric} "))


async def test_greedy_and_seeded_answers_are_those_of_generate_several_at_once(
    net: Network, alone: Alone
) -> None:
    greedy = asyncio.gather(*(ask(net, prompt) for prompt in ASKED))
    hot = asyncio.gather(*(ask(net, prompt, **HOT) for prompt in ASKED))
    assert await greedy == [alone.says(prompt) for prompt in ASKED]
    sampling = Sampling(seed=7, temperature=1.0, top_p=0.95)
    assert await hot == [alone.says(prompt, sampling=sampling) for prompt in ASKED]
    overtaken = [await MeshApi(net, node_id).count("axl_overtaken_total") for node_id in net.node_ids]
    assert sum(overtaken) > 0, "nothing was reordered: this proved too little"


@pytest.mark.parametrize("position", ["exit", "entry"])
async def test_a_burst_that_overflows_the_queue_costs_time_and_no_token(
    net: Network, alone: Alone, position: str
) -> None:
    """While a worker stands still, its neighbour's node writes more to its queue than that holds."""
    victim, neighbour = net.node_ids if position == "entry" else net.node_ids[::-1]
    crowded, sender = MeshApi(net, victim), MeshApi(net, neighbour)
    key, before = await crowded.key(), await crowded.count("axl_drops_total")
    stream = await net.openai().chat.completions.create(
        model=POOL,
        messages=[{"role": "user", "content": ASKED[0]}],
        temperature=0,
        max_tokens=80,
        stream=True,
    )
    pieces: list[str] = []
    async for chunk in stream:
        pieces.append(chunk.choices[0].delta.content or "" if chunk.choices else "")
        if len(pieces) == 5:
            pid = next(e.identity.pid for e in net.stack.supervisor.entries() if e.name == net.worker(victim))
            os.kill(pid, signal.SIGSTOP)
            try:
                await asyncio.gather(*(sender.send(key, b"noise") for _ in range(160)))

                async def overflown() -> bool:
                    return await crowded.count("axl_drops_total") >= before + 40

                await until("the queue has overflown", overflown, WITHIN_S)
            finally:
                os.kill(pid, signal.SIGCONT)
    assert "".join(pieces) == alone.says(ASKED[0], 80)
    await net.idle()
