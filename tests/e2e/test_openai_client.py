"""The whole network by the official `openai` client: real shards, mesh, log and read model."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import openai
import pytest
import pytest_asyncio
import torch
from nats.aio.msg import Msg
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from events import session
from events.envelope import POSITION_STRIDE, Cause
from services.gateway.request_id import new_ulid
from services.gateway_rest import checked
from services.handle import handle
from services.log import EventLog, Writer
from services.projection_check import check
from shard_runtime import messages, sealing
from shard_runtime.text import load_tokenizer
from tests.contract.gateway_house import until
from tests.e2e.network import MODEL, POOL, WITHIN_S, Network, network
from tests.exact.generation import generated, whole_model

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

ASK: Any = [
    {"role": "user", "content": "Tell me a story about a brave fox called Mira who finds an old key."}
]
LONG: dict[str, Any] = {"temperature": 2.0, "seed": 1, "max_tokens": 400}
"""So hot that the model does not come to an end by itself before a test is done with it."""
USUAL = [f"session.{what}.v1" for what in ("opened", "request_started", "generation_ended", "settled")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def net(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Network]:
    async with network(Path(tmp_path_factory.mktemp("e2e")) / "state") as running:
        yield running


async def ask(net: Network, **options: Any) -> ChatCompletion:
    given = {"model": POOL, "messages": ASK, "temperature": 0, "max_tokens": 24, **options}
    answer: ChatCompletion = await net.openai().chat.completions.create(**given)
    return answer


def text_of(answer: ChatCompletion) -> str:
    return answer.choices[0].message.content or ""


async def test_an_answer_ends_at_its_limit_and_its_session_is_settled(net: Network) -> None:
    raw = await net.openai().chat.completions.with_raw_response.create(
        model=POOL, messages=ASK, temperature=0, max_tokens=12
    )
    answer = raw.parse()
    assert answer.choices[0].finish_reason == "length"
    assert text_of(answer).strip()
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12
    timings = raw.headers["x-computepool-timings"]
    assert re.findall(r'stage\d;dur=[\d.]+;hop=[\d.]+;desc="(\w+)"', timings) == list(net.node_ids)
    assert re.findall(r"(\w+);dur=[\d.]+(?:,|$)", timings) == ["queue", "prefill", "ttft", "decode", "total"]
    recorded = await net.closed(raw.headers["x-computepool-session"])
    assert [item.type for item in recorded] == USUAL
    ended = recorded[2].event
    assert ended.completion_tokens == 12
    assert ended.output_commitment == messages.commitment(raw.headers["x-computepool-nonce"], text_of(answer))


async def test_a_stream_is_the_same_answer_in_pieces_with_its_usage(net: Network) -> None:
    whole = await ask(net)
    stream = await net.openai().chat.completions.create(
        model=POOL,
        messages=ASK,
        temperature=0,
        max_tokens=24,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == text_of(whole)
    assert sum(bool(piece) for piece in pieces) > 3
    assert chunks[-1].usage == whole.usage
    stages = (chunks[-2].model_extra or {})["computepool"]["timings"]["stages"]
    assert [stage["node_id"] for stage in stages] == list(net.node_ids)
    assert all(stage["compute_ms"] > 0 for stage in stages)


async def test_legacy_completions_tell_the_log_probabilities_of_transformers(net: Network) -> None:
    prompts = [[1, 50, 60, 70], [1, 200, 30]]
    answer = await net.openai().completions.create(
        model=POOL, prompt=prompts, logprobs=5, temperature=0, max_tokens=12
    )
    model, tokenizer = whole_model(MODEL, "float32"), load_tokenizer(MODEL)
    for prompt, choice in zip(prompts, answer.choices, strict=True):
        run = generated(model, prompt, 12)
        assert choice.text == tokenizer.decode(run.ids, skip_special_tokens=True)
        assert choice.logprobs is not None
        rows = zip(run.logits, run.ids, strict=True)
        expected = [float(torch.log_softmax(row, -1)[token]) for row, token in rows]
        told = choice.logprobs.token_logprobs or []
        assert told == pytest.approx(expected[: len(told)], abs=1e-4)
        assert "".join(choice.logprobs.tokens or []) == choice.text


async def test_chat_log_probabilities_stream_as_they_stand_in_the_whole(net: Network) -> None:
    options: dict[str, Any] = {"logprobs": True, "top_logprobs": 20, "seed": 5, "temperature": 1.0}
    text = text_of(await ask(net, **options))
    whole = (await ask(net, **options, stop=text[-9:])).choices[0]
    assert whole.message.content == text[: text.index(text[-9:])]
    stream = await net.openai().chat.completions.create(
        model=POOL, messages=ASK, max_tokens=24, stream=True, stop=text[-9:], **options
    )
    told = [
        one
        async for chunk in stream
        if chunk.choices[0].logprobs is not None
        for one in chunk.choices[0].logprobs.content or []
    ]
    assert whole.logprobs is not None
    assert told == whole.logprobs.content
    assert bytes(byte for one in told for byte in one.bytes or []).decode() == whole.message.content
    assert all(len(one.top_logprobs) == 20 and one.logprob <= one.top_logprobs[0].logprob for one in told)


async def test_a_seed_fixes_what_is_sampled(net: Network) -> None:
    hot = {"temperature": 1.0, "top_p": 0.95}
    first, second, other = [text_of(await ask(net, seed=seed, **hot)) for seed in (7, 7, 8)]
    assert first == second
    assert first != other


async def test_a_stop_string_ends_the_text_before_itself(net: Network) -> None:
    whole = text_of(await ask(net, max_tokens=40))
    stop = whole.split()[8]
    answer = await ask(net, max_tokens=40, stop=stop)
    assert answer.choices[0].finish_reason == "stop"
    assert text_of(answer) == whole[: whole.index(stop)]


async def test_two_at_once_take_turns(net: Network) -> None:
    order: list[str] = []

    async def read(name: str) -> None:
        stream = await net.openai().chat.completions.create(
            model=POOL, messages=ASK, stream=True, **{**LONG, "max_tokens": 40}
        )
        async for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                order.append(name)

    await asyncio.gather(read("a"), read("b"))
    turns = sum(before != after for before, after in pairwise(order))
    assert turns > 4, "".join(order)


@pytest.mark.parametrize(
    ("change", "refusal", "code", "param"),
    [
        ({"n": 2}, openai.BadRequestError, "invalid_request", "n"),
        ({"model": "no-such-model"}, openai.NotFoundError, "model_not_found", "model"),
        (
            {"messages": [{"role": "user", "content": "a fox and a key " * 300}]},
            openai.BadRequestError,
            "context_length_exceeded",
            "messages",
        ),
    ],
)
async def test_what_cannot_be_served_is_refused_by_name(
    net: Network, change: dict[str, Any], refusal: type[openai.APIStatusError], code: str, param: str
) -> None:
    with pytest.raises(refusal) as refused:
        await ask(net, **change)
    assert refused.value.code == code
    assert refused.value.param == param


async def test_a_wrong_key_is_refused(net: Network) -> None:
    with pytest.raises(openai.AuthenticationError) as refused:
        await net.openai("cp_of-nobody").chat.completions.create(model=POOL, messages=ASK)
    assert refused.value.code == "invalid_api_key"


async def test_a_client_that_leaves_ends_its_generation_on_every_shard(net: Network) -> None:
    client = net.openai()
    async with client.chat.completions.with_streaming_response.create(
        model=POOL, messages=ASK, stream=True, **LONG
    ) as response:
        session_id = response.headers["x-computepool-session"]
        async for line in response.iter_lines():
            if '"content":"' in line:
                break
    await client.close()
    recorded = await net.closed(session_id)
    assert [item.type for item in recorded] == USUAL
    assert recorded[2].event.finish_reason == "cancelled"
    assert recorded[2].event.completion_tokens < LONG["max_tokens"]
    await net.idle()


async def test_the_same_http_request_again_is_a_session_of_its_own(net: Network) -> None:
    seen = []
    for _ in range(2):
        raw = await net.openai().chat.completions.with_raw_response.create(
            model=POOL, messages=ASK, temperature=0, max_tokens=4
        )
        seen.append((raw.headers["x-computepool-session"], text_of(raw.parse())))
    assert seen[0][0] != seen[1][0]
    assert seen[0][1] == seen[1][1]


async def test_a_replayed_command_is_no_second_generation(net: Network) -> None:
    """The gateway's own rights, and another message id each time, so that only the worker can notice."""
    session_id, request_id = new_ulid(), new_ulid()
    entry = net.node_ids[0]
    now = time.time_ns() // 1_000_000
    ended = asyncio.Event()
    given: list[messages.Tokens] = []

    async def take(message: Msg) -> None:
        given.append(msgspec.json.decode(message.data, type=messages.Tokens))
        if given[-1].finish_reason is not None:
            await message.respond(b"ok")
            ended.set()

    async with net.rest(net.operator) as rest, net.role("gateway") as client:
        shown = (await rest.get(f"/nodes/{entry}")).json()
        events = await EventLog.open(client, Writer.load(net.settings.seeds_dir / "gateway.nk"))
        pool_id, epoch = net.pool["pool_id"], net.pool["serving_epoch"]

        async def tell(step: str, command: session.SessionCommand) -> None:
            cause = Cause(f"{request_id}-{step}", "test", request_id, now)
            await handle(events, "session", session_id, command, cause)

        nonce = "ab" * 32
        started = session.RequestStarted(
            request_id, epoch, entry, "1", messages.commitment(nonce, "x"), 3, 12, now + 60_000
        )
        await tell("open", session.Open(session.Opened(pool_id, "key:test", "0", True, now + 120_000)))
        await tell("start", session.StartRequest("key:test", started, now))
        sealed = sealing.seal_for(shown["seal_key"], messages.SealedContent((1, 50, 60), nonce), request_id)
        command = messages.Generate(
            command_id=f"{request_id}-generate",
            pool_id=pool_id,
            epoch=epoch,
            session_id=session_id,
            request_id=request_id,
            sealed=sealed,
            sampling=messages.Sampling(1, 1.0),
            max_tokens=12,
            deadline_unix_ms=now + 60_000,
        )
        await client.subscribe(messages.tokens_subject(entry, request_id), cb=take)
        subject, body = messages.command_subject(entry, "generate"), messages.encode(command)
        jetstream = client.jetstream()
        for copy in range(2):
            await jetstream.publish(subject, body, headers={"Nats-Msg-Id": f"{request_id}-{copy}"})
        await asyncio.wait_for(ended.wait(), WITHIN_S)
        first = await net.closed(session_id)
        await jetstream.publish(subject, body, headers={"Nats-Msg-Id": f"{request_id}-late"})
        await until(lambda: queue_is_empty(net, entry), WITHIN_S)
    assert [item.type for item in first] == USUAL
    assert await net.history(session_id) == first
    numbers = [number for tokens in given for number in range(tokens.index, tokens.index + len(tokens.ids))]
    assert numbers == list(range(first[2].event.completion_tokens))
    assert numbers
    await net.idle()


async def queue_is_empty(net: Network, node_id: str) -> bool:
    """Every command for the node was handed over and acknowledged."""
    async with net.role("orchestrator") as client:
        name = messages.command_consumer(node_id)
        info = await client.jetstream().consumer_info(messages.COMMANDS_STREAM, name)
        return bool(info.num_pending == 0 and info.num_ack_pending == 0)


async def test_a_session_takes_several_requests_until_it_is_settled(net: Network) -> None:
    async with net.rest() as rest:
        opened = (await rest.post("/sessions", json={"model": POOL})).json()
        session_id = opened["session_id"]
        header = {"x-computepool-session": session_id}
        first = await ask(net, max_tokens=4, extra_headers=header)
        second = await ask(net, max_tokens=6, extra_headers=header)

        async def both_reported() -> bool:
            ended = [item for item in await net.history(session_id) if item.type == USUAL[2]]
            return len(ended) == 2

        await until(both_reported, WITHIN_S)
        settled = await rest.post(f"/sessions/{session_id}/settle")
        assert settled.status_code == 200, settled.text
        shown = (
            await rest.get(f"/sessions/{session_id}", params={"at_least": settled.json()["position"]})
        ).json()
    assert shown["status"] == "settled"
    assert [one["completion_tokens"] for one in shown["request_list"]] == [
        answer.usage.completion_tokens for answer in (first, second) if answer.usage
    ]
    with pytest.raises(openai.ConflictError) as late:
        await ask(net, extra_headers=header)
    assert late.value.code == "session_closed"


async def test_the_feed_tells_a_session_and_resumes_where_it_was_left(net: Network) -> None:
    raw = await net.openai().chat.completions.with_raw_response.create(
        model=POOL, messages=ASK, temperature=0, max_tokens=4
    )
    session_id = raw.headers["x-computepool-session"]
    recorded = await net.closed(session_id)
    start = {"from": str(recorded[0].sequence)}
    told = await feed(net, session_id, params=start)
    assert [item["position"] for item in told] == [item.position for item in recorded]
    assert [item["type"] for item in told] == USUAL
    assert told[0]["position"] // POSITION_STRIDE == recorded[0].sequence
    rest = await feed(net, session_id, headers={"last-event-id": str(told[1]["position"])})
    assert rest == told[2:]


async def feed(net: Network, session_id: str, **request: Any) -> list[dict[str, Any]]:
    """The session's events as /feed tells them, up to its settlement."""
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(WITHIN_S), net.rest() as rest, rest.stream("GET", "/feed", **request) as told:
        assert told.status_code == 200
        async for line in told.aiter_lines():
            if line.startswith("data: "):
                item = json.loads(line.removeprefix("data: "))
                if item["aggregate_id"] == session_id:
                    found.append(item)
                    if item["type"] == USUAL[3]:
                        break
    return found


@pytest.mark.parametrize("position", ["entry", pytest.param("exit", marks=pytest.mark.long)])
async def test_a_worker_killed_in_mid_stream_is_told_and_its_restart_serves_again(
    net: Network, position: str
) -> None:
    victim = net.node_ids[-1 if position == "exit" else 0]
    raw = await net.openai().chat.completions.with_raw_response.create(
        model=POOL, messages=ASK, stream=True, **LONG
    )
    stream: openai.AsyncStream[ChatCompletionChunk] = raw.parse()
    pieces: list[str] = []

    async def read() -> None:
        async for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                pieces.append(chunk.choices[0].delta.content)
                if len(pieces) == 3:
                    await net.kill(net.worker(victim))

    with pytest.raises(openai.APIError) as failed:
        await read()
    assert failed.value.code == "shard_lost"
    assert len(pieces) >= 3

    async def named() -> bool:
        async with net.rest() as rest:
            ready = await rest.get("/readyz")
        silent = ready.json()["parts"]["pools"].get("silent_shards", {})
        return ready.status_code == 503 and silent == {POOL: [victim]}

    await until(named, WITHIN_S)
    recorded = await net.closed(raw.headers["x-computepool-session"])
    assert [item.type for item in recorded] == USUAL
    assert recorded[2].event.finish_reason in ("error", "cancelled")

    await net.restart(net.worker(victim))
    await until(net.ready, WITHIN_S)
    assert text_of(await ask(net, max_tokens=8)).strip()
    await net.idle()


async def test_afterwards_the_log_is_sound_and_the_rows_are_its_replay(net: Network) -> None:
    async with net.rest(net.operator) as rest:

        async def all_settled() -> bool:  # the last test's report may still be on its way
            sessions = checked(await rest.get("/sessions", params={"limit": 200}))["items"]
            return {row["status"] for row in sessions} == {"settled"}

        await until(all_settled, WITHIN_S)
    report = await net.audit()
    assert report.findings == ()
    assert report.events > 40
    compared = await check(net.settings)
    assert compared.sequence >= report.messages
    assert compared.differences == ()
    assert len(net.stack.supervisor.alive()) == len(net.stack.supervisor.entries())
