"""An operator leaves in the middle of an answer, and the answer goes on, token for token."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest
import pytest_asyncio
import torch

from shard_runtime.messages import Sampling
from shard_runtime.weights import manifest_of
from tests.exact.generation import Dtype, generated, whole_model
from tests.exact.models import make_model
from tests.moving import Cast
from tests.outcome import Outcome
from tests.ring import Ring, ring

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROMPT = [7, 301, 15, 62, 118, 9, 260, 33]
SAMPLED = Sampling(seed=2**62 + 5, temperature=0.9, top_p=0.95, top_k=40)
TOKENS = 160
CUTS = [1, 4, 6]
PLACES = {"entry": 0, "middle": 1, "exit": 2}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return make_model(tmp_path_factory.mktemp("drain"), "qwen2_sliding", eos=False)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def workers() -> AsyncIterator[Ring]:
    """Three in the ring and one that waits to succeed."""
    async with ring(4) as running:
        yield running


async def cast(workers: Ring, model_dir: Path, dtype: Dtype) -> Cast:
    digest = await asyncio.to_thread(lambda: manifest_of(model_dir).digest)
    made = Cast(workers, model_dir, CUTS, digest, dtype)
    await made.load((0, 1, 2))
    return made


async def drained_at(pool: Cast, place: str, at: int, spare: int) -> tuple[list[Outcome], int]:
    """Two requests that are `at` tokens old when the node in `place` leaves for `spare`; who left."""
    workers, old, epoch = pool.ring, pool.members, pool.epoch
    leaver = old[PLACES[place]]
    successor = await pool.prepare(leaver, spare)
    asked = [await pool.ask(PROMPT, max_tokens=TOKENS, sampling=sampling) for sampling in (None, SAMPLED)]
    for outcome in asked:
        await outcome.tokens(at)
    await pool.drain(successor)
    said = {report.node_id: report for report in await pool.drained(epoch, old)}
    for outcome in asked:
        ended = await workers.ended(outcome)
        assert (ended.finish_reason, ended.completion_tokens) == ("length", TOKENS)
        assert ended.node_id == workers.workers[pool.members[0]].node_id
        [move] = pool.moves(outcome)
        assert (move.node_id, move.to_node_id) == tuple(workers.workers[w].node_id for w in (leaver, spare))
        assert len(PROMPT) + at <= move.tokens < len(PROMPT) + TOKENS
    left = said.pop(workers.workers[leaver].node_id)
    assert left.moved_requests == 2
    assert left.kv_bytes == sum(pool.moves(outcome)[0].kv_bytes for outcome in asked)
    assert all(report.moved_requests == 0 for report in said.values())
    await workers.kv_free()
    return asked, leaver


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.long)])
async def test_an_answer_survives_the_drain_of_each_place(
    workers: Ring, model_dir: Path, dtype: Dtype
) -> None:
    """Greedy and sampled at once. The one that left is the next one's successor."""
    whole = whole_model(model_dir, dtype)
    expected = [generated(whole, PROMPT, TOKENS, sampling).ids for sampling in (None, SAMPLED)]
    pool, spare = await cast(workers, model_dir, dtype), 3
    for at, place in enumerate(PLACES, 1):
        asked, spare = await drained_at(pool, place, at, spare)
        assert [outcome.ids for outcome in asked] == expected, place
    await workers.unload(pool.pool_id)


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_a_cancel_in_the_middle_of_a_move_frees_everything_everywhere(
    workers: Ring, model_dir: Path
) -> None:
    """Whichever of the two rings hears it, and however far the move has come: at the latest when KV that
    nobody claims is let go of (`HOLD_NS`).
    """
    pool, spare = await cast(workers, model_dir, "float32"), 3
    for at in range(1, 5):
        old, epoch = pool.members, pool.epoch
        leaver = old[at % 3]
        successor = await pool.prepare(leaver, spare)
        asked = [await pool.ask(PROMPT, max_tokens=TOKENS) for _ in range(3)]
        for outcome in asked:
            await outcome.tokens(at)
        await pool.drain(successor)
        for outcome in asked[: at % 3 + 1]:
            for number, ring_epoch in ((old[0], epoch), (successor[0], epoch + 1)):
                workers.at_epoch(pool.pool_id, ring_epoch)
                await workers.cancel(pool.pool_id, outcome.request_id, entry=number)
        await pool.drained(epoch, old, 200)
        await workers.queues_empty(200)
        for outcome in asked[at % 3 + 1 :]:
            await workers.ended(outcome)
            assert len(outcome.ids) == TOKENS
        await workers.kv_free()
        spare = leaver
    pool.stop_following()
    await workers.unload(pool.pool_id)


@pytest.mark.long
async def test_when_the_successor_takes_nothing_the_answer_goes_on_in_the_old_ring(
    workers: Ring, model_dir: Path
) -> None:
    """No `Adopt` reaches the successor, as if it had died after it loaded."""
    expected = generated(whole_model(model_dir, "bfloat16"), PROMPT, TOKENS, None).ids
    pool = await cast(workers, model_dir, "bfloat16")
    old, leaver = pool.members, pool.members[1]
    successor = await pool.prepare(leaver, 3)
    outcome = await pool.ask(PROMPT, max_tokens=TOKENS)
    await outcome.tokens(5)
    await pool.drain(successor, adopt=False)
    ended = await workers.ended(outcome)
    assert outcome.ids == expected
    assert ended.epoch == 1
    assert outcome.moved_to == []
    assert not pool.moves(outcome)
    said = await pool.drained(1, old)
    assert all(report.moved_requests == 0 for report in said)
    await workers.kv_free()
    await workers.unload(pool.pool_id)


@pytest.mark.long
async def test_a_killed_successor_costs_a_pause_and_nothing_else(workers: Ring, model_dir: Path) -> None:
    expected = generated(whole_model(model_dir, "float32"), PROMPT, TOKENS, SAMPLED).ids
    pool = await cast(workers, model_dir, "float32")
    old, leaver = pool.members, pool.members[2]
    successor = await pool.prepare(leaver, 3)
    outcome = await pool.ask(PROMPT, max_tokens=TOKENS, sampling=SAMPLED)
    await outcome.tokens(5)
    await workers.workers[3].stop(signal.SIGKILL)
    await pool.drain(successor)
    await workers.ended(outcome)
    assert outcome.ids == expected
    await pool.drained(1, old)
    await workers.kv_free()
    await workers.workers[3].start()
    held = f"{pool.pool_id}:2"
    await workers.until("loaded again", lambda: held in workers.alive[workers.workers[3].node_id].pools, 60)
    await workers.unload(pool.pool_id)


async def test_without_moved_kv_the_tokens_are_computed_anew(workers: Ring, model_dir: Path) -> None:
    """The last resort: a ring that holds nothing of the request gets its tokens, and says the same text."""
    expected = generated(whole_model(model_dir, "float32"), PROMPT, TOKENS, None).ids
    pool = await cast(workers, model_dir, "float32")
    outcome = await workers.generate(
        pool.pool_id, PROMPT, max_tokens=TOKENS, resume_ids=tuple(expected[:40]), entry=pool.members[0]
    )
    assert outcome.ids == expected
    await workers.kv_free()
    await workers.unload(pool.pool_id)


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_fifty_drains_at_random_tokens_change_no_token(workers: Ring, model_dir: Path) -> None:
    """Entry, middle and exit in turns, both dtypes."""
    random = Random(20_26)
    for dtype, turns in (("float32", 25), ("bfloat16", 25)):
        whole = whole_model(model_dir, dtype)  # type: ignore[arg-type]
        expected = [generated(whole, PROMPT, TOKENS, sampling).ids for sampling in (None, SAMPLED)]
        pool, spare = await cast(workers, model_dir, dtype), 3  # type: ignore[arg-type]
        for turn in range(turns):
            place = list(PLACES)[turn % 3]
            at = random.randint(1, TOKENS // 2)
            asked, spare = await drained_at(pool, place, at, spare)
            assert [outcome.ids for outcome in asked] == expected, (turn, place, at)
        await workers.unload(pool.pool_id)
