"""The OpenAI routes over a real control plane, by the official client, with peers in the workers' places."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio

from services.gateway.chat import committed_text
from shard_runtime import messages
from tests.contract.gateway_house import House, Peer, Script, form, house, until

pytestmark = pytest.mark.asyncio(loop_scope="module")
ASK: Any = [{"role": "user", "content": "Tell me a story about a brave otter."}]
TALE = ["Once ", "there was ", "an otter."]


async def tells_a_tale(peer: Peer, command: messages.Generate, content: messages.SealedContent) -> None:
    for index, piece in enumerate(TALE):
        await peer.say(command, index, piece, ids=(index,))
    await peer.end(command, content, "".join(TALE), len(TALE))


class Stage:
    """What the entry peer does with the next generation; each test sets its own script."""

    def __init__(self) -> None:
        self.script: Script = tells_a_tale

    async def play(self, peer: Peer, command: messages.Generate, content: messages.SealedContent) -> None:
        await self.script(peer, command, content)


class World:
    def __init__(self, built: House, stage: Stage, entry: Peer, other: Peer, key: str) -> None:
        self.built, self.stage, self.entry, self.other, self.key = built, stage, entry, other, key

    @property
    def openai(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=f"{self.built.url}/v1",
            api_key=self.key,
            max_retries=0,
            http_client=httpx.AsyncClient(trust_env=False),
        )

    async def session(self, session_id: str) -> dict[str, Any]:
        async with self.built.client(self.key) as client:
            return dict((await client.get(f"/sessions/{session_id}")).json())

    async def settled(self, session_id: str) -> dict[str, Any]:
        async def is_settled() -> bool:
            return bool((await self.session(session_id))["status"] == "settled")

        await until(is_settled)
        return await self.session(session_id)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    directory = Path(tmp_path_factory.mktemp("house"))
    async with house(directory) as built:
        stage = Stage()
        entry = await Peer.join(built, "entry", stage.play)
        other = await Peer.join(built, "other", stage.play)
        await form(built, [entry, other], "tales", kv_slots=2)
        yield World(built, stage, entry, other, await built.new_key())
        for peer in (entry, other):
            await peer.leave()


@pytest.fixture(autouse=True)
def _usual_script(world: World) -> None:
    world.stage.script = tells_a_tale


async def test_one_answer_has_openais_shape_and_its_events_open_the_commitments(world: World) -> None:
    raw = await world.openai.chat.completions.with_raw_response.create(
        model="tales", messages=ASK, seed=7, temperature=0, max_completion_tokens=9, stop="\n\n"
    )
    answer = raw.parse()
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.content == "".join(TALE)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == len(TALE)
    choice = json.loads(raw.text)["choices"][0]
    assert choice["logprobs"] is None
    assert choice["message"]["refusal"] is None
    told = raw.headers["x-computepool-timings"]
    assert [item.split(";")[0] for item in told.split(", ")] == [
        "queue",
        "prefill",
        "ttft",
        "decode",
        "total",
        "stage0",
    ]
    assert told.endswith(f'stage0;dur=1.500;hop=0.500;desc="{world.entry.node_id}"')

    command, content = world.entry.generated[-1]
    assert command.max_tokens == 9
    assert command.sampling == messages.Sampling(7, 0.0, 1.0, 0)
    assert content.stop == ("\n\n",)
    nonce = raw.headers["x-computepool-nonce"]
    assert content.nonce == nonce

    session = await world.settled(raw.headers["x-computepool-session"])
    [request] = session["request_list"]
    assert request["request_id"] == raw.headers["x-computepool-request"]
    assert request["prompt_commitment"] == messages.commitment(nonce, committed_text(ASK))
    assert request["output_commitment"] == messages.commitment(nonce, "".join(TALE))
    assert request["prompt_tokens"] == len(content.prompt_ids) == answer.usage.prompt_tokens
    assert request["seed"] == "7"


async def test_a_stream_brings_the_pieces_as_chunks_and_usage_when_asked(world: World) -> None:
    stream = await world.openai.chat.completions.create(
        model="tales", messages=ASK, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert len({chunk.id for chunk in chunks}) == 1
    assert [chunk.choices[0].delta.content for chunk in chunks if chunk.choices][1:-1] == TALE
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == chunks[-1].usage.prompt_tokens + 3


async def test_a_stream_ends_with_done_and_has_no_usage_key_unless_asked(world: World) -> None:
    async with world.built.client(world.key) as client:
        answer = await client.post(
            "/v1/chat/completions", json={"model": "tales", "messages": ASK, "stream": True}
        )
    lines = [line for line in answer.text.split("\n\n") if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"
    assert all("usage" not in json.loads(line[6:]) for line in lines[:-1])
    assert answer.headers["content-type"].startswith("text/event-stream")


async def test_both_limits_given_the_newer_counts(world: World) -> None:
    await world.openai.chat.completions.create(
        model="tales", messages=ASK, max_completion_tokens=4, max_tokens=9
    )
    assert world.entry.generated[-1][0].max_tokens == 4


async def test_models_are_listed_and_found(world: World) -> None:
    listed = (await world.openai.models.list()).data
    assert [model.id for model in listed] == ["tales"]
    assert (await world.openai.models.retrieve("tales")).owned_by == "computepool"
    with pytest.raises(openai.NotFoundError) as refused:
        await world.openai.models.retrieve("no/such")
    assert refused.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("change", "status", "code", "param"),
    [
        ({"model": None}, 400, "invalid_request", "model"),
        ({"model": "absent"}, 404, "model_not_found", "model"),
        ({"n": 2}, 400, "invalid_request", "n"),
        ({"tools": [{"type": "function"}]}, 400, "unsupported_parameter", "tools"),
        ({"top_logprobs": 3}, 400, "invalid_request", "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, 400, "invalid_request", "top_logprobs"),
        ({"min_p": 0.1}, 400, "unsupported_parameter", "min_p"),
        ({"max_tokens": 0}, 400, "invalid_request", "max_tokens"),
        ({"max_completion_tokens": 0}, 400, "invalid_request", "max_completion_tokens"),
        ({"max_completion_tokens": -3, "max_tokens": 5}, 400, "invalid_request", "max_completion_tokens"),
        ({"max_completion_tokens": 5, "max_tokens": -3}, 400, "invalid_request", "max_tokens"),
        ({"max_completion_tokens": 1.5}, 400, "invalid_request", "max_completion_tokens"),
        ({"max_completion_tokens": True}, 400, "invalid_request", "max_completion_tokens"),
        ({"max_completion_tokens": 100_000}, 400, "context_length_exceeded", "max_completion_tokens"),
        ({"messages": []}, 400, "invalid_request", "messages"),
        (
            {"messages": [{"role": "user", "content": "x " * 2000}]},
            400,
            "context_length_exceeded",
            "messages",
        ),
        ({"max_tokens": 100_000}, 400, "context_length_exceeded", "max_tokens"),
        ({"temperature": 9}, 400, "invalid_request", "temperature"),
        ({"stop": ["a", "b", "c", "d", "e"]}, 400, "invalid_request", "stop"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, 400, "invalid_request", "messages.0.content"),
    ],
)
async def test_bad_requests_are_named_in_openais_envelope_and_hold_no_slot(
    world: World, change: dict[str, object], status: int, code: str, param: str | None
) -> None:
    body = {"model": "tales", "messages": ASK, **change}
    asked = {key: value for key, value in body.items() if value is not None}
    async with world.built.client(world.key) as client:
        answer = await client.post(
            "/v1/chat/completions",
            content=json.dumps(asked),
            headers={"content-type": "application/json"},
        )
        metrics = (await client.get("/metrics")).text
    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert error["param"] == param
    assert "computepool_requests_in_flight 0.0" in metrics


async def test_oversized_and_broken_json_are_refused(world: World) -> None:
    async with world.built.client(world.key) as client:
        large = await client.post("/v1/chat/completions", content=b'{"model": "' + b"x" * 5_000_000 + b'"}')
        broken = await client.post(
            "/v1/chat/completions", content=b'{"model"', headers={"content-type": "application/json"}
        )
        deep = await client.post(
            "/v1/chat/completions", content=b"[" * 200_000, headers={"content-type": "application/json"}
        )
    assert large.status_code == 413
    assert large.json()["error"]["code"] == "request_too_large"
    assert broken.json()["error"]["code"] == "invalid_json"
    assert deep.status_code == 400


async def test_a_shard_lost_before_the_first_token_is_a_503(world: World) -> None:
    async def fails(peer: Peer, command: messages.Generate, content: messages.SealedContent) -> None:
        await peer.end(command, content, "", 0, "error", "shard_lost")

    world.stage.script = fails
    for stream in (False, True):
        with pytest.raises(openai.InternalServerError) as refused:
            await world.openai.chat.completions.create(model="tales", messages=ASK, stream=stream)
        assert refused.value.status_code == 503
        assert refused.value.code == "shard_lost"


async def test_a_shard_lost_in_the_middle_is_an_error_event_and_no_done(world: World) -> None:
    async def fails(peer: Peer, command: messages.Generate, content: messages.SealedContent) -> None:
        await peer.say(command, 0, TALE[0], ids=(0,))
        await peer.end(command, content, TALE[0], 1, "error", "shard_lost")

    world.stage.script = fails
    stream = await world.openai.chat.completions.create(model="tales", messages=ASK, stream=True)
    seen: list[str | None] = []

    async def read() -> None:
        async for chunk in stream:
            seen.append(chunk.choices[0].delta.content)

    with pytest.raises(openai.APIError) as refused:
        await read()
    assert seen == ["", TALE[0]]
    assert refused.value.code == "shard_lost"


async def test_a_hole_in_the_numbers_is_noticed_and_the_ring_is_stopped(world: World) -> None:
    async def skips(peer: Peer, command: messages.Generate, content: messages.SealedContent) -> None:
        await peer.say(command, 0, TALE[0], ids=(0,))
        await peer.say(command, 2, TALE[2], ids=(2,))

    world.stage.script = skips
    with pytest.raises(openai.InternalServerError) as refused:
        await world.openai.chat.completions.create(model="tales", messages=ASK)
    assert refused.value.code == "tokens_lost"
    request_id = world.entry.generated[-1][0].request_id

    async def cancelled() -> bool:
        return any(command.request_id == request_id for command in world.entry.cancelled)

    await until(cancelled)


async def test_a_repeated_message_is_taken_once(world: World) -> None:
    async def repeats(peer: Peer, command: messages.Generate, content: messages.SealedContent) -> None:
        await peer.say(command, 0, TALE[0], ids=(0,))
        await peer.say(command, 0, TALE[0], ids=(0,))
        await peer.end(command, content, TALE[0], 1, "length")

    world.stage.script = repeats
    answer = await world.openai.chat.completions.create(model="tales", messages=ASK)
    assert answer.choices[0].message.content == TALE[0]
    assert answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_goes_away_cancels_its_generation_and_frees_the_slot(
    world: World, stream: bool
) -> None:
    started = asyncio.Event()

    async def never_ends(peer: Peer, command: messages.Generate, content: messages.SealedContent) -> None:
        await peer.say(command, 0, TALE[0], ids=(0,))
        started.set()

        async def told() -> bool:
            return any(cancel.request_id == command.request_id for cancel in peer.cancelled)

        await until(told)
        await peer.end(command, content, TALE[0], 1, "cancelled")

    world.stage.script = never_ends
    body = {"model": "tales", "messages": ASK, "stream": stream}
    async with world.built.client(world.key) as client:
        asking = asyncio.create_task(client.post("/v1/chat/completions", json=body))
        await asyncio.wait_for(started.wait(), 30)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    command = world.entry.generated[-1][0]
    session = await world.settled(command.session_id)
    [request] = session["request_list"]
    assert request["finish_reason"] == "cancelled"

    async def free() -> bool:
        async with world.built.client(None) as client:
            return "computepool_requests_in_flight 0.0" in (await client.get("/metrics")).text

    await until(free)


async def test_more_requests_than_slots_wait_in_line_and_beyond_that_get_429(world: World) -> None:
    go = asyncio.Event()

    async def waits(peer: Peer, command: messages.Generate, content: messages.SealedContent) -> None:
        await go.wait()
        await tells_a_tale(peer, command, content)

    world.stage.script = waits
    already = len(world.entry.generated)
    asking = [
        asyncio.create_task(world.openai.chat.completions.create(model="tales", messages=ASK))
        for _ in range(5)
    ]

    async def one_refused() -> bool:
        return any(task.done() for task in asking)

    await until(one_refused)
    assert len(world.entry.generated) - already <= 2
    go.set()
    results = await asyncio.gather(*asking, return_exceptions=True)
    refused = [result for result in results if isinstance(result, openai.RateLimitError)]
    assert len(refused) == 1
    assert refused[0].response.headers["retry-after"]
    assert sum(not isinstance(result, BaseException) for result in results) == 4


async def test_a_session_takes_several_requests_of_its_own_payer_only(world: World) -> None:
    stranger = await world.built.new_key("stranger")
    body = {"model": "tales", "messages": ASK}
    async with world.built.client(world.key) as client, world.built.client(stranger) as other:
        opened = (await client.post("/sessions", json={"model": "tales"})).json()
        header = {"x-computepool-session": opened["session_id"]}
        for _ in range(2):
            answer = await client.post("/v1/chat/completions", json=body, headers=header)
            assert answer.status_code == 200
            assert answer.headers["x-computepool-session"] == opened["session_id"]
        theirs = await other.post("/v1/chat/completions", json=body, headers=header)
        assert theirs.status_code == 404
        settled = (await client.post(f"/sessions/{opened['session_id']}/settle")).json()
        shown = await client.get(
            f"/sessions/{opened['session_id']}", params={"at_least": settled["position"]}
        )
        assert shown.json()["status"] == "settled"
        assert len(shown.json()["request_list"]) == 2
        late = await client.post("/v1/chat/completions", json=body, headers=header)
        assert late.json()["error"]["code"] == "session_closed"


async def test_prompts_answers_and_keys_are_nowhere_in_the_logs(world: World) -> None:
    secret = "the-otter-keeps-a-secret-9f3a"
    await world.openai.chat.completions.create(model="tales", messages=[{"role": "user", "content": secret}])
    logs = "".join(service.log for service in world.built.services.values())
    assert "served" in logs
    for hidden in (secret, "otter", world.key, world.built.operator_token):
        assert hidden not in logs


async def test_the_request_id_goes_in_out_and_into_the_log(world: World) -> None:
    async with world.built.client(world.key) as client:
        headers = {"x-request-id": "mine-1234"}
        answer = await client.post(
            "/v1/chat/completions", json={"model": "tales", "messages": ASK}, headers=headers
        )
        forged = await client.get("/livez", headers={"x-request-id": "bad id\twith spaces"})
    assert answer.headers["x-request-id"] == "mine-1234"
    assert " " not in forged.headers["x-request-id"]
    assert '"request_id": "mine-1234"' in world.built.services["gateway"].log


async def test_a_pool_with_a_price_and_no_coalition_takes_no_request(world: World) -> None:
    await form(world.built, [world.entry, world.other], "dear", price_wei_per_s=str(10**12))
    with pytest.raises(openai.APIStatusError) as refused:
        await world.openai.chat.completions.create(model="dear", messages=ASK)
    assert (refused.value.status_code, refused.value.code) == (503, "pool_unavailable")
