"""What a ring of worker processes promises beyond equal tokens (tests/exact/test_families.py has those)."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
import torch

from shard_runtime.messages import GenerationEnded, Sampling, commitment
from shard_runtime.spelling import Speller
from shard_runtime.text import IncrementalText, load_tokenizer
from tests.exact.generation import Dtype, Run, generated, whole_model
from tests.exact.models import make_model
from tests.ring import Ring, ring

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOKENS = 24
PROMPT = [7, 301, 15, 62, 118, 9, 260, 33]
SAMPLED = Sampling(seed=2**63 + 11, temperature=0.9, top_p=0.95, top_k=40)
CUTS = {2: [2, 6], 3: [1, 4, 6]}


@dataclass
class Reference:
    """Models on disk and what `generate` says with each, made once."""

    home: Path
    models: dict[tuple[str, bool, bool], Path] = field(default_factory=dict)
    whole: dict[tuple[Path, Dtype], Any] = field(default_factory=dict)

    def model(self, family: str, tied: bool, eos: bool = False) -> Path:
        key = (family, tied, eos)
        if key not in self.models:
            self.models[key] = make_model(self.home / f"{family}-{tied}-{eos}", family, tied=tied, eos=eos)
        return self.models[key]

    def says(
        self, model_dir: Path, dtype: Dtype, prompt: list[int], count: int, sampling: Sampling | None = None
    ) -> list[int]:
        return self.run(model_dir, dtype, prompt, count, sampling).ids

    def run(
        self, model_dir: Path, dtype: Dtype, prompt: list[int], count: int, sampling: Sampling | None = None
    ) -> Run:
        if (model_dir, dtype) not in self.whole:
            self.whole[(model_dir, dtype)] = whole_model(model_dir, dtype)
        return generated(self.whole[(model_dir, dtype)], prompt, count, sampling)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    torch.set_num_threads(1)
    return Reference(tmp_path_factory.mktemp("models"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shards() -> AsyncIterator[Ring]:
    async with ring(3) as running:
        yield running


async def test_many_requests_at_once_do_not_disturb_each_other(shards: Ring, reference: Reference) -> None:
    model_dir = reference.model("llama", False)
    pool_id = await shards.load(model_dir, CUTS[3], kv_slots=6)
    prompts = [[3 + number, 50 + number] * (1 + number) for number in range(6)]
    outcomes = await asyncio.gather(
        *(shards.generate(pool_id, prompt, max_tokens=10 + number) for number, prompt in enumerate(prompts))
    )
    for number, (prompt, outcome) in enumerate(zip(prompts, outcomes, strict=True)):
        assert outcome.ids == reference.says(model_dir, "float32", prompt, 10 + number)
    await shards.unload(pool_id)


async def test_an_end_token_ends_the_text(shards: Ring, reference: Reference) -> None:
    model_dir = reference.model("llama", True, eos=True)
    pool_id = await shards.load(model_dir, CUTS[2])
    seeds = (Sampling(seed=seed, temperature=2.0) for seed in range(100))
    both = ((sampling, reference.says(model_dir, "float32", PROMPT, 120, sampling)) for sampling in seeds)
    sampling, says = next((sampling, ids) for sampling, ids in both if ids[-1] == 2)
    outcome = await shards.generate(pool_id, PROMPT, max_tokens=120, sampling=sampling)
    assert outcome.ids == says
    assert (outcome.finish_reason, outcome.completion_tokens) == ("stop", len(says))
    await shards.unload(pool_id)


async def test_a_stop_string_cuts_the_text_exactly(shards: Ring, reference: Reference) -> None:
    model_dir = reference.model("llama", False)
    pool_id = await shards.load(model_dir, CUTS[2])
    ids = reference.says(model_dir, "float32", PROMPT, TOKENS, SAMPLED)
    text = load_tokenizer(model_dir).decode(ids, skip_special_tokens=True)
    stop = text[len(text) // 2 : len(text) // 2 + 3]
    outcome = await shards.generate(
        pool_id, PROMPT, max_tokens=TOKENS, sampling=SAMPLED, stop=(stop, "never said")
    )
    assert outcome.text == text[: text.index(stop)]
    assert outcome.finish_reason == "stop"
    assert outcome.ids == ids[: len(outcome.ids)]
    [ended] = shards.said(GenerationEnded, request_id=outcome.request_id)
    assert (ended.completion_tokens, ended.error_code) == (len(outcome.ids), None)
    await shards.unload(pool_id)


async def test_a_generation_goes_on_after_tokens_the_client_has_already(
    shards: Ring, reference: Reference
) -> None:
    model_dir = reference.model("llama", False)
    pool_id = await shards.load(model_dir, CUTS[2])
    ids = reference.says(model_dir, "float32", PROMPT, TOKENS, SAMPLED)
    had = tuple(ids[:9])
    command = shards.command(pool_id, PROMPT, max_tokens=TOKENS, sampling=SAMPLED, resume_ids=had)
    outcome = await shards.ask(command)
    await shards.ended(outcome)
    assert outcome.ids == ids
    assert outcome.completion_tokens == TOKENS
    await shards.unload(pool_id)


async def test_the_context_ends_a_text_and_refuses_a_longer_prompt(
    shards: Ring, reference: Reference
) -> None:
    model_dir = reference.model("llama", False)
    pool_id = await shards.load(model_dir, CUTS[2], max_context=20)
    outcome = await shards.generate(pool_id, PROMPT, max_tokens=500)
    assert outcome.ids == reference.says(model_dir, "float32", PROMPT, 20 - len(PROMPT))
    assert outcome.finish_reason == "length"
    too_long = await shards.generate(pool_id, [5] * 20, max_tokens=4)
    assert (too_long.finish_reason, too_long.error_code) == ("error", "context_exceeded")
    await shards.kv_free()
    await shards.unload(pool_id)


async def test_a_prompt_of_several_frames_goes_round(shards: Ring, reference: Reference) -> None:
    model_dir = make_model(
        reference.home / "wide", "llama", layers=2, hidden=512, intermediate=512, max_position=4096, eos=False
    )
    pool_id = await shards.load(model_dir, [1, 2], max_context=2400)
    prompt = [(7 * number) % 300 + 3 for number in range(2300)]
    outcome = await shards.generate(pool_id, prompt, max_tokens=4)
    assert outcome.ids == reference.says(model_dir, "float32", prompt, 4)
    await shards.unload(pool_id)


async def test_the_report_commits_to_the_text(shards: Ring, reference: Reference) -> None:
    model_dir = reference.model("llama", False)
    pool_id = await shards.load(model_dir, CUTS[2])
    outcome = await shards.generate(pool_id, PROMPT, max_tokens=6)
    [ended] = shards.said(GenerationEnded, request_id=outcome.request_id)
    assert ended.output_commitment == commitment(outcome.nonce, outcome.text)
    assert (ended.prompt_tokens, ended.completion_tokens) == (len(PROMPT), 6)
    await shards.unload(pool_id)


@pytest.mark.parametrize(
    ("ends", "dtype"),
    [([6], "float32"), (CUTS[2], "float32"), (CUTS[2], "bfloat16"), (CUTS[3], "float32")],
    ids=["1-float32", "2-float32", "2-bfloat16", "3-float32"],
)
async def test_log_probabilities_are_those_of_transformers_on_the_same_tokens(
    shards: Ring, reference: Reference, ends: list[int], dtype: Dtype
) -> None:
    """Hot sampling with filters, so that the tokens told of are seldom the likeliest."""
    model_dir = reference.model("llama", False)
    pool_id = await shards.load(model_dir, ends, dtype=dtype)
    asked = msgspec.structs.replace(SAMPLED, logprobs=20)
    outcome = await shards.generate(pool_id, PROMPT, max_tokens=TOKENS, sampling=asked)
    whole = reference.run(model_dir, dtype, PROMPT, TOKENS, SAMPLED)
    assert outcome.ids == whole.ids
    assert len(outcome.logprobs) == TOKENS
    spell = Speller(load_tokenizer(model_dir)).spell
    for said, token, logits in zip(outcome.logprobs, whole.ids, whole.logits, strict=True):
        expected = torch.log_softmax(logits.float(), -1)
        assert said.logprob == pytest.approx(float(expected[token]), abs=1e-4)
        best = expected.topk(20)
        assert [one.id for one in said.likely] == best.indices.tolist()
        assert [one.logprob for one in said.likely] == pytest.approx(best.values.tolist(), abs=1e-4)
        assert all(one.spelled == spell(one.id) for one in said.likely)
    assert len(outcome.spelled) == TOKENS
    assert b"".join(outcome.spelled).decode(errors="replace") == outcome.text
    await shards.unload(pool_id)


async def test_log_probabilities_go_on_after_tokens_the_client_has_and_stop_with_the_text(
    shards: Ring, reference: Reference
) -> None:
    model_dir = reference.model("llama", False)
    pool_id = await shards.load(model_dir, CUTS[2])
    asked = msgspec.structs.replace(SAMPLED, logprobs=0)
    once = await shards.generate(pool_id, PROMPT, max_tokens=TOKENS, sampling=asked)
    assert all(said.likely == () for said in once.logprobs)
    stop = once.text[-3:]
    command = shards.command(
        pool_id, PROMPT, max_tokens=TOKENS, sampling=asked, stop=(stop,), resume_ids=tuple(once.ids[:9])
    )
    again = await shards.ask(command)
    await shards.ended(again)
    before = [said.logprob for said in once.logprobs[9 : len(again.ids)]]
    assert [said.logprob for said in again.logprobs] == pytest.approx(before, abs=1e-4)
    had = IncrementalText(load_tokenizer(model_dir), (stop,), Speller(load_tokenizer(model_dir)))
    for token in once.ids[:9]:
        had.push(token)
    spelled = [*had.spelled(), *again.spelled]
    assert len(spelled) == len(again.ids)
    assert b"".join(spelled).decode(errors="replace") == once.text[: once.text.index(stop)]
    await shards.unload(pool_id)


async def test_nobody_who_did_not_ask_is_told_log_probabilities(shards: Ring, reference: Reference) -> None:
    pool_id = await shards.load(reference.model("llama", False), CUTS[2])
    outcome = await shards.generate(pool_id, PROMPT, max_tokens=5, sampling=SAMPLED)
    assert (outcome.logprobs, outcome.spelled) == ([], [])
    await shards.unload(pool_id)
