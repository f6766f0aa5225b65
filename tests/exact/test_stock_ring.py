"""A ring over nodes that offer only the stock API, with that node's hazards, says what `generate` says."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch

from shard_runtime.messages import Sampling
from tests.exact.generation import Dtype, generated, whole_model
from tests.exact.models import make_model
from tests.mesh_nodes import MeshNode, until
from tests.ring import Ring, ring
from tests.worker_process import WorkerProcess

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.long]

TOKENS = 24
PROMPT = [7, 301, 15, 62, 118, 9, 260, 33]
SAMPLED = Sampling(seed=2**63 + 11, temperature=0.9, top_p=0.95, top_k=40)
STOCK = {"stock": True, "stock_reorder_ms": 10}
QUEUE = 100


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shards() -> AsyncIterator[Ring]:
    async with ring(3, strangers=1, mesh_options=STOCK) as running:
        yield running


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.set_num_threads(1)
    home = tmp_path_factory.mktemp("models")
    return {family: make_model(home / family, family, eos=False) for family in ("llama", "gemma2")}


def says(
    model: Any, count: int = TOKENS, sampling: Sampling | None = None, prompt: list[int] | None = None
) -> list[int]:
    return generated(model, prompt or PROMPT, count, sampling).ids


async def total(nodes: list[MeshNode], metric: str) -> int:
    return int(sum([(await node.metrics())[metric] for node in nodes]))


@contextmanager
def stalled(worker: WorkerProcess) -> Any:
    """The worker stands still, as on a machine that swaps: its node's queue fills."""
    os.kill(worker.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(worker.pid, signal.SIGCONT)


@pytest.mark.parametrize(
    ("family", "dtype", "cuts"), [("llama", "float32", [2, 6]), ("gemma2", "bfloat16", [1, 4, 6])]
)
async def test_the_ring_says_what_generate_says_although_messages_overtake_each_other(
    shards: Ring, models: dict[str, Path], family: str, dtype: Dtype, cuts: list[int]
) -> None:
    assert "extensions" not in await shards.nodes[0].topology()
    pool_id = await shards.load(models[family], cuts, dtype=dtype)
    before = await total(shards.nodes, "axl_overtaken_total")
    outcomes = await asyncio.gather(
        *(shards.generate(pool_id, PROMPT, max_tokens=TOKENS) for _ in range(3)),
        *(shards.generate(pool_id, PROMPT, max_tokens=TOKENS, sampling=SAMPLED) for _ in range(3)),
    )
    whole = whole_model(models[family], dtype)
    assert [outcome.ids for outcome in outcomes[:3]] == [says(whole)] * 3
    assert [outcome.ids for outcome in outcomes[3:]] == [says(whole, sampling=SAMPLED)] * 3
    assert await total(shards.nodes, "axl_overtaken_total") > before, "nothing was reordered: prove more"
    await shards.unload(pool_id)


async def test_a_queue_that_overflows_loses_frames_and_no_token(
    shards: Ring, models: dict[str, Path]
) -> None:
    """A stranger fills the stalled exit's queue, which forgets the ring's frames: they are repeated."""
    pool_id = await shards.load(models["llama"], [2, 6], max_context=512)
    requests = [shards.command(pool_id, [*PROMPT, 40 + number], max_tokens=200) for number in range(4)]
    outcomes = [await shards.ask(request) for request in requests]
    for outcome in outcomes:
        await outcome.tokens(3)
    node, stranger = shards.nodes[1], shards.nodes[-1]
    before = await node.metrics()
    with stalled(shards.workers[1]):
        await asyncio.gather(*(stranger.send(node.peer_id, b"noise") for _ in range(QUEUE + 60)))

        async def overflown() -> bool:
            return (await node.metrics())["axl_drops_total"] >= before["axl_drops_total"] + 40

        await until("the stock queue has overflown", overflown)
    whole = whole_model(models["llama"], "float32")
    for number, outcome in enumerate(outcomes):
        await shards.ended(outcome)
        assert outcome.ids == says(whole, 200, prompt=[*PROMPT, 40 + number])
    await shards.kv_free()
    await shards.unload(pool_id)
