"""Every supported family in 1, 2 and 3 worker processes over real mesh nodes says what `generate` says.

The tokens are equal, and so, bit for bit, are the log-probabilities that the exit computed from its logits,
at the prompt's last position and at every one after it.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio
import torch

from shard_runtime.messages import LikelyToken, Sampling
from shard_runtime.sampling import weighed
from shard_runtime.text import load_tokenizer
from tests.exact.generation import Dtype, generated, whole_model
from tests.exact.models import make_model
from tests.outcome import Outcome
from tests.ring import Ring, ring

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOKENS, WINDOW = 20, 12
SHORT = [7, 301, 15, 62, 118, 9, 260, 33]
"""Reaches the sliding window while it is being answered."""
LONG = [5, 17, 80, 200, 33, 41, 9, 120, 64, 250, 7, 300, 19, 88, 143, 56, 210]
"""Longer than the window from the start."""
LIKELY = 20
GREEDY = Sampling(seed=0, logprobs=LIKELY)
SAMPLED = Sampling(seed=2**63 + 11, temperature=0.9, top_p=0.95, top_k=40, logprobs=LIKELY)
Asked = Sequence[tuple[list[int], Sampling]]
DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16")
CUTS = ([6], [2, 6], [1, 4, 6])
MODELS = [
    ("llama", True),
    ("llama", False),
    ("qwen2", False),
    ("qwen2_sliding", True),
    ("qwen3", True),
    ("mistral", False),
    ("gemma", True),
    ("gemma2", True),
    ("gemma3_text", True),
    ("phi3", False),
    ("smollm3", True),
    ("granite", True),
]
"""Families and whether their head is the embedding, as most published models of each have it."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shards() -> AsyncIterator[Ring]:
    async with ring(3) as running:
        yield running
        await running.kv_free()


def bits_of(likely: Sequence[LikelyToken]) -> list[tuple[int, float]]:
    return [(one.id, one.logprob) for one in likely]


async def answered(shards: Ring, pool_id: str, asked: Asked) -> list[Outcome]:
    requests = (
        shards.generate(pool_id, prompt, max_tokens=TOKENS, sampling=sampling) for prompt, sampling in asked
    )
    return await asyncio.gather(*requests)


@pytest.mark.parametrize(("family", "tied"), MODELS)
async def test_a_family_says_what_generate_says_in_1_2_and_3_shards(
    shards: Ring, tmp_path: Path, family: str, tied: bool
) -> None:
    torch.set_num_threads(1)
    model_dir = make_model(tmp_path, family, tied=tied, eos=False, sliding_window=WINDOW)
    asked: Asked = [(SHORT, GREEDY), (LONG, SAMPLED)]
    pools = [(dtype, cuts) for dtype in DTYPES for cuts in CUTS]
    loaded = await asyncio.gather(
        *(shards.load(model_dir, cuts, dtype=dtype, max_context=64, kv_slots=2) for dtype, cuts in pools)
    )
    answers = await asyncio.gather(*(answered(shards, pool_id, asked) for pool_id in loaded))
    tokenizer, expected = load_tokenizer(model_dir), {}
    for dtype in DTYPES:
        whole = whole_model(model_dir, dtype)
        expected[dtype] = [generated(whole, prompt, TOKENS, sampling) for prompt, sampling in asked]
        assert len(set(expected[dtype][-1].ids)) > 8, "a reference that repeats itself proves little"
    for (dtype, cuts), outcomes in zip(pools, answers, strict=True):
        for run, outcome in zip(expected[dtype], outcomes, strict=True):
            assert outcome.ids == run.ids, f"{dtype} in {len(cuts)} shards"
            assert outcome.text == tokenizer.decode(run.ids, skip_special_tokens=True)
            assert outcome.finish_reason == "length"
            for said, token, logits in zip(outcome.logprobs, run.ids, run.logits, strict=True):
                exact = weighed(logits, token, LIKELY)
                assert (said.logprob, bits_of(said.likely)) == (exact.logprob, list(exact.likely))
            assert [hop.node_id for hop in outcome.hops] == [w.node_id for w in shards.workers[: len(cuts)]]
