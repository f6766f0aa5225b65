"""What a worker process promises whoever commands it: over a real nats-server, mesh and neighbours."""

import asyncio
import io
import json
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from services import dispatch
from services.load_display import Lines
from shard_runtime import frames
from shard_runtime.messages import (
    CapabilitiesMeasured,
    CommandRefused,
    Drain,
    GenerationEnded,
    NodeStopping,
    PlanMember,
    Sampling,
    SliceDrained,
    SliceFailed,
    SliceLoaded,
    command_subject,
    encode,
)
from tests.exact.models import make_model
from tests.ring import Ring, new_id, ring

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROMPT = [7, 301, 15, 62]
LONG = 1900
STALL_S = 2.0


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), "llama", eos=False)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shards() -> AsyncIterator[Ring]:
    options = {"stall_seconds": STALL_S, "drain_seconds": 0.5}
    async with ring(2, strangers=1, ack_wait_s=8, worker_options=options) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def pool_id(shards: Ring, model_dir: Path) -> AsyncIterator[str]:
    pool_id = await shards.load(model_dir, [3, 6], max_context=2048, kv_slots=2)
    yield pool_id
    await shards.kv_free()
    await shards.unload(pool_id)
    await shards.queues_empty()


async def replay(shards: Ring, command: object, entry: int = 0) -> None:
    """The same command in a new message, as after a lost acknowledgement."""
    subject = command_subject(shards.workers[entry].node_id, "generate")
    await shards.gateway.jetstream().publish(subject, encode(command))


async def test_a_worker_says_what_it_can_do(shards: Ring) -> None:
    await shards.until(
        "both workers have measured themselves",
        lambda: all(shards.said(CapabilitiesMeasured, node_id=worker.node_id) for worker in shards.workers),
    )
    for worker in shards.workers:
        [measured] = shards.said(CapabilitiesMeasured, node_id=worker.node_id)
        assert measured.memory_bytes > 1 << 28
        assert measured.matmul_gflops > 0
        assert measured.device == "cpu"


async def test_a_replayed_generate_makes_one_generation(shards: Ring, pool_id: str) -> None:
    command = shards.command(pool_id, PROMPT, max_tokens=120)
    outcome = await shards.ask(command)
    await outcome.tokens(3)
    await replay(shards, command)
    await shards.ended(outcome)
    await replay(shards, command)
    await shards.queues_empty()
    assert len(outcome.ids) == 120
    assert outcome.last_messages == 1
    assert not outcome.faults
    assert len(shards.said(GenerationEnded, request_id=outcome.request_id)) == 1


async def test_a_generate_replayed_after_a_restart_makes_one_generation(shards: Ring, pool_id: str) -> None:
    entry = shards.workers[0]
    command = shards.command(pool_id, PROMPT, max_tokens=20)
    outcome = await shards.ask(command)
    await shards.ended(outcome)
    loads = len(shards.said(SliceLoaded, node_id=entry.node_id, pool_id=pool_id))
    await entry.stop(signal.SIGKILL)
    await entry.start()
    await replay(shards, command)
    await shards.until(
        "the slice is announced again",
        lambda: len(shards.said(SliceLoaded, node_id=entry.node_id, pool_id=pool_id)) == loads + 1,
    )
    await shards.queues_empty()
    assert outcome.last_messages == 1
    assert len(shards.said(GenerationEnded, request_id=outcome.request_id)) == 1
    again = await shards.generate(pool_id, PROMPT, max_tokens=20)
    assert again.ids == outcome.ids


async def test_an_entry_killed_in_mid_stream_reports_the_loss_and_never_starts_over(
    shards: Ring, pool_id: str
) -> None:
    command = shards.command(pool_id, PROMPT, max_tokens=LONG)
    outcome = await shards.ask(command)
    await outcome.tokens(5)
    await shards.workers[0].stop(signal.SIGKILL)
    had = len(outcome.ids)
    await shards.workers[0].start()
    await replay(shards, command)
    ended = await shards.ended(outcome)
    assert (ended.finish_reason, ended.error_code) == ("error", "shard_lost")
    assert outcome.error_code == "shard_lost"
    assert len(outcome.ids) == had
    await shards.kv_free()


async def test_cancel_frees_the_kv_everywhere(shards: Ring, pool_id: str) -> None:
    command = shards.command(pool_id, PROMPT, max_tokens=LONG)
    outcome = await shards.ask(command)
    await outcome.tokens(5)
    await shards.until(
        "both workers hold KV",
        lambda: all(shards.alive[worker.node_id].kv_slots_used == 1 for worker in shards.workers),
    )
    await shards.cancel(pool_id, command.request_id)
    ended = await shards.ended(outcome)
    assert (outcome.finish_reason, outcome.error_code) == ("cancelled", None)
    assert 5 <= ended.completion_tokens == len(outcome.ids) < LONG
    await shards.kv_free()
    await shards.queues_empty()


async def test_a_cancel_because_a_node_is_gone_is_an_error_to_the_client(shards: Ring, pool_id: str) -> None:
    command = shards.command(pool_id, PROMPT, max_tokens=LONG)
    outcome = await shards.ask(command)
    await outcome.tokens(5)
    await shards.cancel(pool_id, command.request_id, reason="node_lost")
    await shards.ended(outcome)
    assert (outcome.finish_reason, outcome.error_code) == ("error", "shard_lost")
    await shards.kv_free()


async def test_a_cancel_that_comes_first_keeps_the_request_from_beginning(shards: Ring, pool_id: str) -> None:
    command = shards.command(pool_id, PROMPT, max_tokens=LONG)
    await shards.cancel(pool_id, command.request_id)
    await shards.queues_empty()
    outcome = await shards.ask(command)
    await shards.ended(outcome)
    assert (outcome.finish_reason, outcome.ids) == ("cancelled", [])


@pytest.mark.long
async def test_a_killed_shard_ends_the_request_and_a_restarted_one_serves_again(
    shards: Ring, pool_id: str
) -> None:
    outcome = await shards.ask(shards.command(pool_id, PROMPT, max_tokens=LONG))
    await outcome.tokens(5)
    await shards.workers[1].stop(signal.SIGKILL)
    killed_s = time.monotonic()
    ended = await shards.ended(outcome)
    assert time.monotonic() - killed_s < STALL_S + 5
    assert (outcome.finish_reason, outcome.error_code) == ("error", "shard_lost")
    assert ended.completion_tokens == len(outcome.ids)
    await shards.workers[1].start()
    loaded = len(shards.said(SliceLoaded, node_id=shards.workers[1].node_id, pool_id=pool_id))
    await shards.until(
        "the slice is announced again",
        lambda: len(shards.said(SliceLoaded, node_id=shards.workers[1].node_id, pool_id=pool_id)) > loaded,
    )
    again = await shards.generate(pool_id, PROMPT, max_tokens=8)
    assert again.ids[:5] == outcome.ids[:5]


async def test_a_full_shard_refuses_cleanly_and_the_others_go_on(shards: Ring, pool_id: str) -> None:
    first, second = [await shards.ask(shards.command(pool_id, PROMPT, max_tokens=LONG)) for _ in range(2)]
    await asyncio.gather(first.tokens(2), second.tokens(2))
    third = await shards.generate(pool_id, PROMPT, max_tokens=4)
    assert (third.finish_reason, third.error_code, third.ids) == ("error", "kv_exhausted", [])
    assert first.finish_reason is second.finish_reason is None
    for outcome in (first, second):
        await shards.cancel(pool_id, outcome.request_id)
        await shards.ended(outcome)
    await shards.kv_free()
    again = await shards.generate(pool_id, PROMPT, max_tokens=4)
    assert again.ids == first.ids[:4]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"not json", "malformed"),
        (b'{"kind":"generate","command_id":"c1"}', "malformed"),
        (b'{"kind":"sing","command_id":"c1"}', "malformed"),
        (b"[" * 5000, "malformed"),
    ],
)
async def test_a_malformed_command_is_taken_off_and_reported_by_its_place(
    shards: Ring, body: bytes, code: str
) -> None:
    subject = command_subject(shards.workers[0].node_id, "generate")
    ack = await shards.gateway.jetstream().publish(subject, body)
    [refused] = await shards.until("refusal", lambda: shards.said(CommandRefused, stream_seq=ack.seq))
    assert (refused.code, refused.command_id) == (code, "")
    await shards.queues_empty()


async def test_a_request_that_can_never_run_ends_with_its_reason(shards: Ring, pool_id: str) -> None:
    cases = {
        "prompt_invalid": shards.command(pool_id, [5, 100_000]),
        "context_exceeded": shards.command(pool_id, [5] * 2048),
        "max_tokens_invalid": shards.command(pool_id, PROMPT, max_tokens=0),
        "deadline": shards.command(pool_id, PROMPT, deadline_s=-1.0),
        "seal_broken": shards.command(pool_id, PROMPT, entry=1),
        "slice_not_loaded": msgspec.structs.replace(shards.command(pool_id, PROMPT), pool_id="nowhere"),
        "wrong_epoch": msgspec.structs.replace(shards.command(pool_id, PROMPT), epoch=7),
    }
    for code, command in cases.items():
        outcome = await shards.ask(command)
        ended = await shards.ended(outcome)
        assert (outcome.finish_reason, outcome.error_code, ended.error_code) == ("error", code, code)
        assert outcome.ids == []


async def test_a_deadline_ends_a_running_request(shards: Ring, pool_id: str) -> None:
    outcome = await shards.generate(pool_id, PROMPT, max_tokens=LONG, deadline_s=1.0)
    assert (outcome.finish_reason, outcome.error_code) == ("error", "deadline")
    assert 0 < len(outcome.ids) < LONG


async def test_the_end_is_repeated_until_somebody_answers(shards: Ring, pool_id: str) -> None:
    shards.answer_ends = False
    try:
        outcome = await shards.generate(pool_id, PROMPT, max_tokens=2)
    finally:
        shards.answer_ends = True
    assert outcome.last_messages > 2
    assert not outcome.faults


async def test_a_slice_that_can_not_be_loaded_is_reported_with_its_code(
    shards: Ring, model_dir: Path, tmp_path: Path
) -> None:
    for failing, code, options in (
        (model_dir, "weights_mismatch", {"digest": "0" * 64}),
        (tmp_path / "nothing", "model_not_found", {"digest": "0" * 64}),
        (model_dir, "slice_range_invalid", {"cuts": [3, 9]}),
        (model_dir, "plan_invalid", {"cuts": [3, 5]}),
    ):
        cuts = options.pop("cuts", [3, 6])
        failed_id = await shards.load(failing, cuts, may_fail=True, **options)  # type: ignore[arg-type]
        codes = {report.code for report in shards.said(SliceFailed, pool_id=failed_id)}
        assert codes == {code}


async def test_the_log_tells_a_load_from_its_layers_to_its_last_tensor(shards: Ring, pool_id: str) -> None:
    """What `computepool worker run` shows: bytes that grow to the slice's, tensors by name, the digest."""
    [report] = shards.said(SliceLoaded, pool_id=pool_id, node_id=shards.workers[1].node_id)
    lines = [json.loads(line) for line in shards.workers[1].log_text().splitlines() if pool_id in line]
    told = [line for line in lines if line["event"] in ("slice_loading", "slice_progress", "slice_loaded")]
    begin, *steps, end = told[: 1 + next(n for n, line in enumerate(told) if line["event"] == "slice_loaded")]
    assert (begin["event"], begin["first_layer"], begin["end_layer"]) == ("slice_loading", 3, 6)
    assert begin["weights_digest"] == end["weights_digest"] == report.weights_digest
    assert {line["event"] for line in steps} == {"slice_progress"}
    assert [line["bytes_done"] for line in steps] == sorted(line["bytes_done"] for line in steps)
    assert steps[-1]["bytes_done"] == steps[-1]["bytes"] == report.slice_bytes == end["slice_bytes"]
    assert steps[-1]["tensors_done"] == steps[-1]["tensors"] > 3
    assert all(line["tensor"].startswith(("model.", "lm_head.")) for line in steps)
    assert not end["kept"]
    stream = io.StringIO()
    for line in (begin, *steps, end):
        Lines(stream).tell(line)
    assert "every tensor is the agreed one" in stream.getvalue()


async def test_a_newer_cut_stands_beside_the_older_until_that_has_ended_and_never_comes_back(
    shards: Ring, model_dir: Path, pool_id: str
) -> None:
    running = await shards.ask(shards.command(pool_id, PROMPT, max_tokens=400))
    await running.tokens(3)
    await shards.load(model_dir, [2, 6], max_context=2048, kv_slots=2, pool_id=pool_id, epoch=2)
    again = await shards.generate(pool_id, PROMPT, max_tokens=3)
    old = shards.command(pool_id, PROMPT, max_tokens=3)
    members = tuple(
        PlanMember(worker.node_id, worker.mesh_node.peer_id, worker.receipt_key.address, first, end)
        for worker, first, end in zip(shards.workers, (0, 2), (2, 6), strict=True)
    )
    for worker in shards.workers:
        drain = Drain(new_id(), pool_id, 1, 2, members)
        await dispatch.send(shards.orchestrator, worker.node_id, drain)
    await shards.until("drained", lambda: len(shards.said(SliceDrained, pool_id=pool_id, epoch=1)) == 2)
    await shards.ended(running)
    assert (running.finish_reason, len(running.ids)) == ("length", 400)
    assert again.ids == running.ids[:3]
    drained = shards.said(SliceDrained, pool_id=pool_id, epoch=1)
    assert [report.moved_requests for report in drained] == [0, 0]
    late = await shards.ask(msgspec.structs.replace(old, epoch=1))
    await shards.until("sent on", lambda: late.moved_to == [2])
    loads = len(shards.said(SliceLoaded, pool_id=pool_id, epoch=1))
    await shards.send_load(model_dir, [3, 6], max_context=2048, kv_slots=2, pool_id=pool_id, epoch=1)
    await shards.queues_empty()
    assert len(shards.said(SliceLoaded, pool_id=pool_id, epoch=1)) == loads
    shards.at_epoch(pool_id, 2)


async def test_frames_of_a_stranger_are_dropped_and_counted(shards: Ring, pool_id: str) -> None:
    """The stranger claims to be the entry; its own mesh key gives it away."""
    outcome = await shards.ask(shards.command(pool_id, PROMPT, max_tokens=200))
    await outcome.tokens(2)
    payload = bytes(4 * 64)
    forged = frames.Header(
        frames.VERSION, "hidden", pool_id, 1, outcome.request_id, len(PROMPT) + 400, 1, 0,
        shards.nodes[0].peer_id, shards.nodes[1].peer_id, "float32", (1, 64), 0, 1, frames.digest_of(payload),
        0, 32,
    )  # fmt: skip
    for _ in range(7):
        assert await shards.nodes[2].send(shards.nodes[1].peer_id, frames.encode(forged, payload)) == 200
    assert await shards.nodes[2].send(shards.nodes[1].peer_id, b"\xff" * 64) == 200
    await shards.ended(outcome)
    assert (outcome.finish_reason, len(outcome.ids)) == ("length", 200)
    exit_ = shards.workers[1]
    assert await exit_.stop() == 0
    told = [json.loads(line) for line in exit_.log_text().splitlines() if '"event": "frames"' in line]
    assert told[-1]["wrong_sender"] == 7
    mesh = [json.loads(line) for line in exit_.log_text().splitlines() if '"event": "mesh"' in line]
    assert mesh[-1]["rejected_header_too_long"] == 1
    await exit_.start()
    await shards.until("alive again", lambda: pool_id in str(shards.alive[exit_.node_id].pools))


async def test_a_stopped_worker_says_goodbye_and_its_ring_hears_it_at_once(
    shards: Ring, pool_id: str
) -> None:
    exit_ = shards.workers[1]
    goodbyes = len(shards.said(NodeStopping, node_id=exit_.node_id))
    outcome = await shards.ask(shards.command(pool_id, PROMPT, max_tokens=LONG))
    await outcome.tokens(3)
    begun_s = time.monotonic()
    assert await exit_.stop() == 0
    await shards.ended(outcome)
    assert outcome.error_code == "shard_lost"
    assert outcome.arrivals[-1][0] - begun_s < STALL_S
    await shards.until(
        "goodbye", lambda: len(shards.said(NodeStopping, node_id=exit_.node_id)) == goodbyes + 1
    )
    await exit_.start()
    await shards.until(
        "loaded again", lambda: shards.alive[exit_.node_id].pools and shards.alive[exit_.node_id].sent_unix_ms
    )


async def test_logs_hold_no_prompt_no_text_and_no_key(shards: Ring, pool_id: str) -> None:
    prompt = [211, 212, 213, 214, 215, 216]
    outcome = await shards.generate(
        pool_id, prompt, max_tokens=30, sampling=Sampling(seed=5, temperature=1.5), stop=("xyzzy",)
    )
    assert len(outcome.text) > 10
    for worker in shards.workers:
        log = worker.log_text()
        assert "generation_ended" in log or worker is not shards.workers[0]
        seed = (worker.home / "nats.nk").read_text()
        for secret in ("211, 212", "211,212", "xyzzy", outcome.text[:10], outcome.nonce, seed,
                       (worker.home / "seal.key").read_text()):  # fmt: skip
            assert secret not in log
