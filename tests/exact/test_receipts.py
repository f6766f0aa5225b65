"""What real rings sign: every node for every step, chained round the ring, equal when computed again."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import pytest_asyncio
import torch

from shard_runtime.activations import to_bytes
from shard_runtime.messages import GenerationEnded, Sampling
from shard_runtime.receipts import (
    Hashed,
    NodeReceipts,
    SegmentHashes,
    Terms,
    exit_input_hash,
    hash_of,
    receipt_digest,
    segment_of,
    token_bytes,
    usage_statement,
)
from shard_runtime.signing import digest_signer, signer_of
from shard_runtime.slices import Slice
from shard_runtime.text import load_tokenizer
from shard_runtime.weights import manifest_of
from tests.exact.generation import load_cut
from tests.exact.models import make_model
from tests.moving import Cast
from tests.outcome import Outcome
from tests.ring import Ring, ring
from tests.slashing import COALITION, ESCROW

pytestmark = pytest.mark.asyncio(loop_scope="module")

TERMS = Terms(31337, COALITION, 4, ESCROW)
PROMPT = [7, 301, 15, 62, 118, 9, 260, 33]
SAMPLED = Sampling(seed=2**63 + 11, temperature=0.9, top_p=0.95, top_k=40)
CUTS = {1: [6], 2: [2, 6], 3: [1, 4, 6]}
TOKENS = 60
"""With the prompt two whole segments and a part of a third."""


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return make_model(tmp_path_factory.mktemp("models") / "llama", "llama", tied=False, eos=False)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shards() -> AsyncIterator[Ring]:
    async with ring(3) as running:
        yield running


def told(shards: Ring, outcome: Outcome) -> tuple[NodeReceipts, ...]:
    """What the client heard, once the report says the same."""
    [ended] = shards.said(GenerationEnded, request_id=outcome.request_id)
    assert (ended.receipts, ended.usage) == (outcome.receipts, outcome.usage)
    return outcome.receipts


def unsigned(receipts: NodeReceipts) -> tuple[Hashed, ...]:
    return tuple(Hashed(r.segment, r.steps, r.input_hash, r.output_hash) for r in receipts.receipts)


def holds(
    shards: Ring, outcome: Outcome, sampling: Sampling, members: Sequence[int], attempt: int = 1
) -> None:
    """Signed by the whole ring, chained from stage to stage; the account claims no more than was computed."""
    receipts = told(shards, outcome)
    workers = [shards.workers[number] for number in members]
    assert [one.node_id for one in receipts] == [worker.node_id for worker in workers]
    for one, worker in zip(receipts, workers, strict=True):
        for receipt in one.receipts:
            digest = receipt_digest(TERMS, outcome.request_id, attempt, receipt)
            assert digest_signer(digest, receipt.signature) == worker.receipt_key.address
    for number, (before, after) in enumerate(pairwise(receipts)):
        for out, taken in zip(before.receipts, after.receipts, strict=False):
            is_exit = number + 2 == len(receipts)
            assert out.segment == taken.segment
            if out.steps == taken.steps:  # all but the last one of a request that was cut short
                passed_on = exit_input_hash(sampling, out.output_hash) if is_exit else out.output_hash
                assert passed_on == taken.input_hash
    usage, [ended] = outcome.usage, shards.said(GenerationEnded, request_id=outcome.request_id)
    assert usage is not None
    statement = usage_statement(TERMS, ended.session_id, outcome.request_id, attempt, usage)
    assert signer_of(statement, usage.signature) == workers[0].receipt_key.address
    assert usage.own_receipts == hash_of(receipts[0])
    assert (usage.prompt_tokens, usage.completion_tokens) == (ended.prompt_tokens, ended.completion_tokens)
    assert usage.completion_tokens == len(outcome.ids)
    steps = sum(receipt.steps for receipt in receipts[0].receipts)
    assert usage.completion_tokens - usage.resumed_tokens <= steps


def again(slices: list[Slice], given: Sequence[int], made: Sequence[int], sampling: Sampling
          ) -> list[SegmentHashes]:  # fmt: skip
    """What honest stages sign of an attempt that began with `given` at step 0 and led to `made`."""
    hashes = [SegmentHashes(sampling if piece.is_exit else None) for piece in slices]
    slots = [piece.new_kv(256) for piece in slices]
    ids, at = tuple(given), 0
    for token in made:
        x, payload = torch.tensor(ids), token_bytes(ids)
        for piece, slot, one in zip(slices, slots, hashes, strict=True):
            x = piece.step(x, slot)
            out = token_bytes((token,)) if piece.is_exit else bytes(to_bytes(x))
            one.add(at, len(ids), payload, out)
            payload = out
        ids, at = (token,), at + len(ids)
    return hashes


@pytest.mark.parametrize(
    "stages", [pytest.param(1, marks=pytest.mark.long), pytest.param(2, marks=pytest.mark.long), 3]
)
async def test_each_stage_signs_just_what_anyone_computes_again(
    shards: Ring, llama: Path, stages: int
) -> None:
    pool_id = await shards.load(llama, CUTS[stages])
    outcomes = await asyncio.gather(
        *(shards.generate(pool_id, PROMPT, max_tokens=TOKENS, sampling=SAMPLED, terms=TERMS) for _ in "ab")
    )
    slices = load_cut(llama, [0, *CUTS[stages]], "float32")
    expected = [one.segments() for one in again(slices, PROMPT, outcomes[0].ids, SAMPLED)]
    assert [one.segment for one in expected[0]] == [0, 1, 2]
    for outcome in outcomes:
        holds(shards, outcome, SAMPLED, range(stages))
        assert [unsigned(one) for one in outcome.receipts] == expected
        assert sum(one.steps for one in outcome.receipts[0].receipts) == TOKENS
    free = await shards.generate(pool_id, PROMPT, max_tokens=3)
    assert (told(shards, free), free.usage) == ((), None)
    await shards.unload(pool_id)


@pytest.mark.long
async def test_an_account_claims_no_more_than_was_computed_however_a_request_ends(
    shards: Ring, llama: Path, tmp_path: Path
) -> None:
    """A stop string, a prefill of what an earlier epoch made, a client that leaves, an end token."""
    pool_id = await shards.load(llama, CUTS[2])
    whole = await shards.generate(pool_id, PROMPT, max_tokens=TOKENS, sampling=SAMPLED, terms=TERMS)
    text = load_tokenizer(llama).decode(whole.ids, skip_special_tokens=True)
    stop = text[len(text) // 2 : len(text) // 2 + 3]
    stopped = await shards.generate(
        pool_id, PROMPT, max_tokens=TOKENS, sampling=SAMPLED, stop=(stop,), terms=TERMS
    )
    assert stopped.finish_reason == "stop"
    holds(shards, stopped, SAMPLED, (0, 1))

    had = tuple(whole.ids[:9])
    resumed = await shards.generate(
        pool_id, PROMPT, max_tokens=TOKENS, sampling=SAMPLED, resume_ids=had, terms=TERMS
    )
    holds(shards, resumed, SAMPLED, (0, 1))
    assert resumed.usage is not None
    assert (resumed.usage.resumed_tokens, resumed.usage.first_step) == (9, 0)
    slices = load_cut(llama, [0, *CUTS[2]], "float32")
    expected = again(slices, [*PROMPT, *had], resumed.ids[9:], SAMPLED)
    assert [unsigned(one) for one in resumed.receipts] == [one.segments() for one in expected]

    command = shards.command(pool_id, PROMPT, max_tokens=240, sampling=SAMPLED, terms=TERMS)
    cancelled = await shards.ask(command)
    await cancelled.tokens(40)
    await shards.cancel(pool_id, cancelled.request_id)
    await shards.ended(cancelled)
    assert cancelled.finish_reason == "cancelled"
    holds(shards, cancelled, SAMPLED, (0, 1))
    await shards.unload(pool_id)

    pool_id = await shards.load(make_model(tmp_path / "eos", "llama", tied=True, eos=True), CUTS[2])
    seeds = [Sampling(seed=seed, temperature=2.0) for seed in range(8)]
    outcomes = await asyncio.gather(
        *(shards.generate(pool_id, PROMPT, max_tokens=120, sampling=seed, terms=TERMS) for seed in seeds)
    )
    assert "stop" in {outcome.finish_reason for outcome in outcomes}
    for outcome, seed in zip(outcomes, seeds, strict=True):
        holds(shards, outcome, seed, (0, 1))
    await shards.unload(pool_id)


async def test_a_request_that_moved_has_receipts_of_its_new_ring(shards: Ring, llama: Path) -> None:
    """They begin behind the KV that moved, and count no token of the old ring."""
    pool_id = await shards.load(llama, CUTS[3])  # so that leaver and successor know the way to each other
    await shards.generate(pool_id, PROMPT, max_tokens=2, sampling=SAMPLED, terms=TERMS)
    cast = Cast(shards, llama, CUTS[2], manifest_of(llama).digest, "float32")
    await cast.load((0, 1))
    outcome = await cast.ask(PROMPT, max_tokens=200, sampling=SAMPLED, terms=TERMS)
    await outcome.tokens(20)
    members = await cast.prepare(leaver=1, successor=2)
    await cast.drain(members)
    await shards.ended(outcome)
    assert outcome.moved_to == [2]
    holds(shards, outcome, SAMPLED, (0, 2), attempt=2)
    usage = outcome.usage
    assert usage is not None
    assert usage.resumed_tokens >= 20
    assert usage.first_step == len(PROMPT) + usage.resumed_tokens - 1
    assert outcome.receipts[0].receipts[0].segment == segment_of(usage.first_step, 1)
    entry = SegmentHashes()
    fed = [*PROMPT, *outcome.ids]
    for step in range(usage.first_step, len(fed) - 1):
        entry.add(step, 1, token_bytes((fed[step],)), b"")
    said = [(one.segment, one.steps, one.input_hash) for one in outcome.receipts[0].receipts]
    assert said == [(one.segment, one.steps, one.input_hash) for one in entry.segments()]
    await cast.drained(1, (0, 1))


@pytest.mark.long
async def test_the_node_that_lied_is_the_only_one_with_true_inputs_and_other_outputs(llama: Path) -> None:
    """Between honest neighbours, in the second segment; and the entry accounts for tokens nobody made."""
    async with ring(3, lies={0: "usage:7", 1: "output:45"}) as liars:
        pool_id = await liars.load(llama, CUTS[3])
        outcome = await liars.generate(pool_id, PROMPT, max_tokens=TOKENS, sampling=SAMPLED, terms=TERMS)
    slices = load_cut(llama, [0, *CUTS[3]], "float32")
    true = [one.segments() for one in again(slices, PROMPT, outcome.ids, SAMPLED)]
    said = [unsigned(one) for one in outcome.receipts]
    found = [
        [(there.input_hash == one.input_hash, there.output_hash == one.output_hash)
         for there, one in zip(honest, node, strict=True)]
        for honest, node in zip(true, said, strict=True)
    ]  # fmt: skip
    agrees, lied, misled = (True, True), (True, False), (False, True)  # it picked the told tokens
    assert found == [[agrees] * 3, [agrees, lied, lied], [agrees, misled, misled]]
    assert outcome.usage is not None
    steps = sum(receipt.steps for receipt in outcome.receipts[0].receipts)
    assert (outcome.usage.completion_tokens, steps) == (TOKENS + 7, TOKENS)
