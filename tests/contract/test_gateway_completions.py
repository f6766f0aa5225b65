"""Legacy completions, and log-probabilities of both routes, by the official client, with a peer as worker."""

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio

from services.gateway.completions import committed_text
from shard_runtime import messages
from tests.contract.gateway_house import Peer, form, house, until
from tests.contract.test_gateway_chat import ASK, Stage, World

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def echoes_its_prompt(peer: Peer, command: messages.Generate, content: messages.SealedContent) -> None:
    """Its answer is its prompt's ids, so that choices can be told apart."""
    pieces = [f"<{number}>" for number in content.prompt_ids]
    for index, piece in enumerate(pieces):
        await peer.say(command, index, piece, ids=(index,))
    await peer.end(command, content, "".join(pieces), len(pieces), "length")


async def tells_probably(peer: Peer, command: messages.Generate, content: messages.SealedContent) -> None:
    """As an entry does when log-probabilities were asked for; é comes in two tokens, the last is special."""
    likely = (messages.LikelyToken(1, -0.5, b"a "), messages.LikelyToken(9, -1.0, b"the"))
    said = [messages.TokenLogprob(-0.5, likely), *map(messages.TokenLogprob, (-0.25, -1.5, -0.01))]
    await peer.say(command, 0, "a ", ids=(1,), logprobs=(said[0],), spelled=(b"a ",))
    await peer.say(command, 1, "", ids=(2,), logprobs=(said[1],))
    await peer.say(command, 2, "é", ids=(3,), logprobs=(said[2],), spelled=(b"\xc3", b"\xa9"))
    await peer.say(command, 3, "", ids=(4,), logprobs=(said[3],), spelled=(b"",))
    await peer.end(command, content, "a é", 4)


def told(*ids: int) -> str:
    return "".join(f"<{number}>" for number in ids)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with house(Path(tmp_path_factory.mktemp("house"))) as built:
        stage = Stage()
        entry = await Peer.join(built, "entry", stage.play)
        await form(built, [entry], "tales", kv_slots=2)
        yield World(built, stage, entry, entry, await built.new_key())
        await entry.leave()


@pytest.fixture(autouse=True)
def _usual_script(world: World) -> None:
    world.stage.script = echoes_its_prompt


async def test_one_prompt_is_one_choice_in_openais_shape(world: World) -> None:
    raw = await world.openai.completions.with_raw_response.create(
        model="tales", prompt=[5, 6], seed=3, temperature=0, top_p=0.5, stop=["\n", "x"]
    )
    answer = raw.parse()
    assert answer.object == "text_completion"
    assert answer.id.startswith("cmpl-")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (
        2,
        2,
        4,
    )
    [choice] = json.loads(raw.text)["choices"]
    assert choice == {"text": told(5, 6), "index": 0, "logprobs": None, "finish_reason": "length"}
    command, content = world.entry.generated[-1]
    assert command.sampling == messages.Sampling(3, 0.0, 0.5, 0)
    assert command.max_tokens == 16
    assert (content.prompt_ids, content.stop) == ((5, 6), ("\n", "x"))
    names = [item.split(";")[0] for item in raw.headers["x-computepool-timings"].split(", ")]
    assert names == ["queue", "prefill", "ttft", "decode", "total", "stage0"]
    session = await world.settled(raw.headers["x-computepool-session"])
    [request] = session["request_list"]
    nonce = raw.headers["x-computepool-nonce"]
    assert request["prompt_commitment"] == messages.commitment(nonce, "[5,6]")
    assert request["output_commitment"] == messages.commitment(nonce, told(5, 6))


@pytest.mark.parametrize("stream", [False, True])
async def test_each_of_several_prompts_is_a_choice(world: World, stream: bool) -> None:
    """Three more than there are slots; each has a session of its own, and the answer their order."""
    prompts = [[number, 100 + number] for number in range(5)]
    texts: dict[int, str] = defaultdict(str)
    asked: dict[str, Any] = {"model": "tales", "prompt": prompts, "max_tokens": 4, "stream": stream}
    if stream:
        asked["stream_options"] = {"include_usage": True}
    raw: Any = await world.openai.completions.with_raw_response.create(**asked)
    if stream:
        chunks = [chunk async for chunk in raw.parse()]
        for chunk in chunks[:-1]:
            [choice] = chunk.choices
            texts[choice.index] += choice.text
        ends = [chunk for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason]
        assert sorted(chunk.choices[0].index for chunk in ends) == [0, 1, 2, 3, 4]
        assert all((chunk.model_extra or {})["computepool"]["timings"]["stages"] for chunk in ends)
        assert len({chunk.id for chunk in chunks}) == 1
        assert chunks[-1].choices == []
        usage = chunks[-1].usage
    else:
        answer = raw.parse()
        texts |= {choice.index: choice.text for choice in answer.choices}
        assert [choice.index for choice in answer.choices] == [0, 1, 2, 3, 4]
        usage = answer.usage
    assert texts == {number: told(number, 100 + number) for number in range(5)}
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (10, 10)
    sessions = raw.headers["x-computepool-session"].split(", ")
    requests = raw.headers["x-computepool-request"].split(", ")
    assert len(set(sessions)) == len(set(requests)) == 5
    for session_id, request_id in zip(sessions, requests, strict=True):
        [request] = (await world.settled(session_id))["request_list"]
        assert request["request_id"] == request_id

    async def free() -> bool:
        async with world.built.client(None) as client:
            return "computepool_requests_in_flight 0.0" in (await client.get("/metrics")).text

    await until(free)


async def test_texts_are_tokenized_and_echoed(world: World) -> None:
    prompts = ["Once upon a time", "there was"]
    answer = await world.openai.completions.create(model="tales", prompt=prompts, echo=True)
    contents = {content.prompt_ids for _, content in world.entry.generated[-2:]}
    for prompt, choice in zip(prompts, answer.choices, strict=True):
        assert choice.text.startswith(prompt + "<")
        ids = tuple(int(one) for one in choice.text.removeprefix(prompt)[1:-1].split("><"))
        assert ids in contents
    spelt = answer.choices[0].text.removeprefix(prompts[0])[1:-1].split("><")
    again = await world.openai.completions.create(
        model="tales", prompt=[int(one) for one in spelt], echo=True
    )
    assert again.choices[0].text == answer.choices[0].text
    streamed = await world.openai.completions.create(model="tales", prompt="there", echo=True, stream=True)
    pieces = [chunk.choices[0].text async for chunk in streamed]
    assert pieces[0] == "there"
    assert len(pieces) > 2


async def test_log_probabilities_have_the_legacy_shape(world: World) -> None:
    world.stage.script = tells_probably
    raw = await world.openai.completions.with_raw_response.create(model="tales", prompt=[1], logprobs=2)
    assert json.loads(raw.text)["choices"][0]["logprobs"] == {
        "tokens": ["a ", "bytes:\\xc3", "bytes:\\xa9"],
        "token_logprobs": [-0.5, -0.25, -1.5],
        "top_logprobs": [{"a ": -0.5, "the": -1.0}, {"bytes:\\xc3": -0.25}, {"bytes:\\xa9": -1.5}],
        "text_offset": [0, 2, 2],
    }
    stream = await world.openai.completions.create(model="tales", prompt=[1], logprobs=0, stream=True)
    offsets = [
        offset
        async for chunk in stream
        if chunk.choices[0].logprobs is not None
        for offset in chunk.choices[0].logprobs.text_offset or []
    ]
    assert offsets == [0, 2, 2]


@pytest.mark.parametrize(
    ("change", "status", "code", "param"),
    [
        ({"prompt": None}, 400, "invalid_request", "prompt"),
        ({"prompt": []}, 400, "invalid_request", "prompt"),
        ({"prompt": ""}, 400, "invalid_request", "prompt"),
        ({"prompt": [[1], [1_000_000]]}, 400, "invalid_request", "prompt"),
        ({"prompt": [-1]}, 400, "invalid_request", "prompt"),
        ({"prompt": [[1]] * 17}, 400, "invalid_request", "prompt"),
        ({"prompt": [1] * 5000}, 400, "context_length_exceeded", "prompt"),
        ({"max_tokens": 100_000}, 400, "context_length_exceeded", "max_tokens"),
        ({"max_tokens": 0}, 400, "invalid_request", "max_tokens"),
        ({"logprobs": 6}, 400, "invalid_request", "logprobs"),
        ({"logprobs": True}, 400, "invalid_request", "logprobs"),
        ({"logprobs": 1, "echo": True}, 400, "unsupported_parameter", "echo"),
        ({"suffix": "end"}, 400, "unsupported_parameter", "suffix"),
        ({"best_of": 2}, 400, "unsupported_parameter", "best_of"),
        ({"n": 2}, 400, "invalid_request", "n"),
        ({"model": "absent"}, 404, "model_not_found", "model"),
    ],
)
async def test_what_is_not_served_is_refused_by_name(
    world: World, change: dict[str, object], status: int, code: str, param: str
) -> None:
    async with world.built.client(world.key) as client:
        answer = await client.post("/v1/completions", json={"model": "tales", "prompt": [1], **change})
        metrics = (await client.get("/metrics")).text
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param)
    assert set(error) == {"message", "type", "param", "code"}
    assert "computepool_requests_in_flight 0.0" in metrics


@pytest.mark.parametrize("stream", [False, True])
async def test_one_choice_that_fails_ends_all_and_stops_the_others(world: World, stream: bool) -> None:
    async def fails_at_two(peer: Peer, command: messages.Generate, content: messages.SealedContent) -> None:
        await peer.say(command, 0, "<x>", ids=(0,))
        if content.prompt_ids == (2,):
            await peer.end(command, content, "<x>", 1, "error", "shard_lost")

    world.stage.script = fails_at_two
    prompts = [[1], [2]]

    async def read() -> None:
        made: Any = await world.openai.completions.create(model="tales", prompt=prompts, stream=stream)
        if stream:
            assert [chunk async for chunk in made]

    with pytest.raises(openai.APIError) as failed:
        await read()
    assert failed.value.code == "shard_lost"
    other = next(c for c, content in reversed(world.entry.generated) if content.prompt_ids == (1,))

    async def stopped() -> bool:
        async with world.built.client(None) as client:
            free = "computepool_requests_in_flight 0.0" in (await client.get("/metrics")).text
        return free and any(cancel.request_id == other.request_id for cancel in world.entry.cancelled)

    await until(stopped)
    world.stage.script = echoes_its_prompt
    both = await asyncio.gather(
        *(world.openai.completions.create(model="tales", prompt=[number]) for number in (7, 8))
    )
    assert [answer.choices[0].text for answer in both] == [told(7), told(8)]


async def test_a_session_takes_all_choices_of_a_request(world: World) -> None:
    async with world.built.client(world.key) as client:
        opened = (await client.post("/sessions", json={"model": "tales"})).json()
        header = {"x-computepool-session": opened["session_id"]}
        body = {"model": "tales", "prompt": ["one", "two", "three"]}
        answer = await client.post("/v1/completions", json=body, headers=header)
        assert answer.headers["x-computepool-session"] == opened["session_id"]
        nonces = answer.headers["x-computepool-nonce"].split(", ")
        settled = (await client.post(f"/sessions/{opened['session_id']}/settle")).json()
    shown = await world.settled(opened["session_id"])
    assert settled["position"]
    expected = {
        messages.commitment(nonce, committed_text(prompt))
        for nonce, prompt in zip(nonces, body["prompt"], strict=True)
    }
    assert {request["prompt_commitment"] for request in shown["request_list"]} == expected


async def test_log_probabilities_come_in_openais_shape_beside_what_is_shown(world: World) -> None:
    world.stage.script = tells_probably
    answer = await world.openai.chat.completions.create(
        model="tales", messages=ASK, logprobs=True, top_logprobs=2
    )
    assert world.entry.generated[-1][0].sampling.logprobs == 2
    assert answer.choices[0].message.content == "a é"
    assert answer.choices[0].logprobs is not None
    told = answer.choices[0].logprobs.content
    assert told is not None
    assert [(one.token, one.logprob, one.bytes) for one in told] == [
        ("a ", -0.5, [97, 32]),
        ("\\xc3", -0.25, [0xC3]),
        ("\\xa9", -1.5, [0xA9]),
    ]
    assert [(one.token, one.logprob, one.bytes) for one in told[0].top_logprobs] == [
        ("a ", -0.5, [97, 32]),
        ("the", -1.0, [116, 104, 101]),
    ]
    assert told[1].top_logprobs == []


async def test_a_streams_log_probabilities_stand_in_the_chunk_that_shows_their_token(world: World) -> None:
    world.stage.script = tells_probably
    stream = await world.openai.chat.completions.create(
        model="tales", messages=ASK, logprobs=True, stream=True
    )
    chunks = [chunk async for chunk in stream]
    told = [
        (chunk.choices[0].delta.content, [one.token for one in chunk.choices[0].logprobs.content or []])
        for chunk in chunks
        if chunk.choices[0].logprobs is not None
    ]
    assert told == [("a ", ["a "]), ("é", ["\\xc3", "\\xa9"])]
    assert world.entry.generated[-1][0].sampling.logprobs == 0


async def test_an_entry_that_forgets_log_probabilities_is_found_out(world: World) -> None:
    async def forgets(peer: Peer, command: messages.Generate, content: messages.SealedContent) -> None:
        await peer.say(command, 0, "a", ids=(1,), spelled=(b"a",))

    world.stage.script = forgets
    with pytest.raises(openai.InternalServerError) as refused:
        await world.openai.chat.completions.create(model="tales", messages=ASK, logprobs=True)
    assert refused.value.code == "tokens_lost"


async def test_a_streams_last_choice_carries_its_timings_for_those_who_look(world: World) -> None:
    stream = await world.openai.chat.completions.create(model="tales", messages=ASK, stream=True)
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].choices[0].finish_reason == "length"
    assert chunks[-1].model_extra is not None
    timings = chunks[-1].model_extra["computepool"]["timings"]
    assert timings["stages"] == [{"node_id": world.entry.node_id, "compute_ms": 1.5, "hop_in_ms": 0.5}]
    assert 0 <= timings["queue_ms"] <= timings["ttft_ms"] <= timings["total_ms"]
    assert (timings["prefill_ms"], timings["decode_ms"]) == (12.5, 40.0)
    assert all(not chunk.model_extra for chunk in chunks[:-1])
