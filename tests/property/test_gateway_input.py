"""What the gateway makes of arbitrary input, without a network: chat bodies, budgets, slots, model files."""

import asyncio
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from services.gateway import asked, chat, completions
from services.gateway.model_files import find_model, inspect
from services.gateway.refusals import (
    ContextLengthExceeded,
    InvalidRequest,
    ModelUnreadable,
    Problem,
    TooManyRequests,
    UnsupportedParameter,
)
from services.gateway.slots import Slots

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
field_names = st.sampled_from(sorted(chat.ChatRequest.model_fields))


def body(**changed: Any) -> chat.ChatRequest:
    return chat.ChatRequest.model_validate(
        {"model": "tales", "messages": [{"role": "user", "content": "hello"}], **changed}
    )


@given(st.dictionaries(field_names, json_values))
def test_any_body_is_understood_or_refused_by_name(changed: dict[str, Any]) -> None:
    try:
        understood = body(**changed)
        chat.refuse_unserved(understood)
        messages = chat.plain_messages(understood)
        stops = asked.stop_strings(understood.stop)
        drawn = asked.sampling_of(
            understood.seed,
            understood.temperature,
            understood.top_p,
            understood.top_k,
            understood.likely,
        )
    except ValidationError as wrong:
        named: object = wrong.errors()[0]["loc"]
    except Problem as refused:
        named = refused.param
    else:
        named = "nothing to name"
        assert messages
        assert all(set(message) == {"role", "content"} for message in messages)
        assert len(stops) <= 4
        assert all(stops)
        assert 0 <= drawn.seed < 2**63
        assert 0 <= drawn.temperature <= 2
        assert 0 < drawn.top_p <= 1
    assert named


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tools", [{"type": "function"}]),
        ("functions", [{}]),
        ("tool_choice", "required"),
        ("reasoning_effort", "high"),
        ("repetition_penalty", 1.2),
        ("presence_penalty", 0.5),
        ("frequency_penalty", -0.5),
        ("logit_bias", {"1": 2}),
        ("response_format", {"type": "json_object"}),
        ("modalities", ["audio"]),
        ("audio", {"voice": "x"}),
    ],
)
def test_what_is_not_served_is_refused_by_its_name(field: str, value: object) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        chat.refuse_unserved(body(**{field: value}))
    assert refused.value.param == field


def test_harmless_fields_and_neutral_values_pass() -> None:
    understood = body(
        user="me",
        store=True,
        n=1,
        tools=[],
        logprobs=False,
        presence_penalty=0,
        response_format={"type": "text"},
    )
    chat.refuse_unserved(understood)
    assert understood.limit is None


def test_an_unknown_option_of_a_stream_is_named() -> None:
    body(stream=True, stream_options={"include_usage": True, "include_obfuscation": False})
    with pytest.raises(ValidationError) as refused:
        body(stream=True, stream_options={"continuous_usage_stats": True})
    assert refused.value.errors()[0]["loc"] == ("stream_options", "continuous_usage_stats")


def test_the_newer_limit_wins_and_parts_are_joined() -> None:
    understood = body(
        max_tokens=5,
        max_completion_tokens=7,
        messages=[
            {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
        ],
    )
    assert understood.limit == 7
    assert chat.plain_messages(understood) == [{"role": "system", "content": "ab"}]


@pytest.mark.parametrize("content", [[{"type": "image_url", "image_url": {}}], [{"type": "text"}]])
def test_content_that_is_not_text_is_refused(content: object) -> None:
    with pytest.raises(UnsupportedParameter, match="not served"):
        chat.plain_messages(body(messages=[{"role": "user", "content": content}]))


def budget_of(prompt: int, limit: int | None, context: int) -> int:
    return asked.token_budget(prompt, limit, context, prompt_name="messages", limit_name="max_tokens")


@given(st.integers(1, 10_000), st.none() | st.integers(1, 10_000), st.integers(2, 10_000))
def test_prompt_and_completion_never_exceed_the_context(prompt: int, limit: int | None, context: int) -> None:
    if prompt + (limit or 1) > context:
        with pytest.raises(ContextLengthExceeded, match=rf"{context} tokens.*{prompt}"):
            budget_of(prompt, limit, context)
        return
    budget = budget_of(prompt, limit, context)
    assert budget >= 1
    assert prompt + budget <= context
    assert limit in (None, budget)


prompts = st.one_of(
    json_values,
    st.text(),
    st.lists(st.text(), max_size=20),
    st.lists(st.integers(-5, 400), max_size=20),
    st.lists(st.lists(st.integers(-5, 400), max_size=4), max_size=20),
)
legacy_names = st.sampled_from(sorted({*completions.CompletionRequest.model_fields} - {"model", "prompt"}))


@given(prompts, st.dictionaries(legacy_names, json_values, max_size=3))
def test_any_legacy_body_is_understood_or_refused_by_name(prompt: Any, changed: dict[str, Any]) -> None:
    try:
        understood = completions.CompletionRequest.model_validate(
            {"model": "tales", "prompt": prompt, **changed}
        )
        completions.refuse_unserved(understood)
        found = completions.prompts(understood)
        for one in found:
            if not isinstance(one, str):
                completions.check_ids(one, 320)
    except ValidationError as wrong:
        named: object = wrong.errors()[0]["loc"]
    except Problem as refused:
        named = refused.param in completions.CompletionRequest.model_fields
    else:
        named = True
        assert 1 <= len(found) <= completions.MAX_PROMPTS
        assert understood.limit >= 1
        assert all(isinstance(one, str) or all(0 <= number < 320 for number in one) for one in found)
    assert named


@pytest.mark.parametrize(
    "prompt",
    [
        None,
        [],
        [[]],
        ["a", 1],
        [1, "a"],
        [True],
        [[1], "a"],
        [1.0],
        {"a": 1},
        ["a"] * 17,
        "\ud800",
        ["\udfff"],
    ],
)
def test_a_prompt_of_no_known_kind_is_refused(prompt: Any) -> None:
    understood = completions.CompletionRequest.model_validate({"model": "tales", "prompt": prompt})
    with pytest.raises(InvalidRequest) as refused:
        completions.prompts(understood)
    assert refused.value.param == "prompt"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 2),
        ("best_of", 3),
        ("suffix", "the end"),
        ("presence_penalty", 0.5),
        ("frequency_penalty", -0.5),
        ("logit_bias", {"1": 2}),
        ("max_completion_tokens", 5),
        ("min_p", 0.0),
        ("stream_options", {"include_usage": True}),
    ],
)
def test_what_legacy_completions_do_not_serve_is_refused_by_its_name(field: str, value: object) -> None:
    asked_for = {"model": "tales", "prompt": "x", field: value}
    with pytest.raises(Problem) as refused:
        completions.refuse_unserved(completions.CompletionRequest.model_validate(asked_for))
    assert refused.value.param == field


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 4), st.integers(1, 8))
def test_slots_never_overfill_and_come_back_to_zero(steps: list[bool], in_pool: int, in_all: int) -> None:
    async def play() -> None:
        slots = Slots(in_all, wait_s=60)
        running: set[asyncio.Task[None]] = set()
        for arrives in steps:
            if arrives:
                running.add(asyncio.create_task(slots.acquire("p", in_pool)))
            elif running:
                task = running.pop()
                if task.done() and task.exception() is None:
                    slots.release("p")
                else:
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)
            for _ in range(5):
                await asyncio.sleep(0)  # a granted turn needs a few rounds of the loop to be noticed
            granted = sum(task.done() and task.exception() is None for task in running)
            assert granted <= in_pool
            assert slots.in_flight <= in_all
            assert slots.held["p"] == granted
        for task in running:
            if task.done() and task.exception() is None:
                slots.release("p")
            else:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        while slots.held["p"]:
            slots.release("p")
        assert slots.in_flight == 0

    asyncio.run(play())


async def test_who_waits_longest_gets_the_next_slot_and_a_full_queue_is_refused() -> None:
    slots = Slots(in_all=10)
    await slots.acquire("p", 1)
    waiting = asyncio.create_task(slots.acquire("p", 1))
    await asyncio.sleep(0)
    with pytest.raises(TooManyRequests) as refused:
        await slots.acquire("p", 1)
    assert refused.value.headers["retry-after"]
    slots.release("p")
    await waiting
    assert slots.in_flight == 1


async def test_waiting_ends_with_a_refusal_and_leaves_nothing() -> None:
    slots = Slots(in_all=10, wait_s=0.01)
    await slots.acquire("p", 1)
    with pytest.raises(TooManyRequests):
        await slots.acquire("p", 1)
    slots.release("p")
    assert slots.in_flight == 0


def write_model(directory: Path, *, tied: bool, hidden: int = 8, vocab: int = 32, layers: int = 3) -> None:
    """A model directory with headers and no weights: what `inspect` reads, and nothing else."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": layers,
        "max_position_embeddings": 512,
    }
    (directory / "config.json").write_text(json.dumps(config))
    shapes = {"model.embed_tokens.weight": [vocab, hidden], "model.norm.weight": [hidden]}
    shapes |= {f"model.layers.{i}.mlp.up_proj.weight": [hidden, 4 * hidden] for i in range(layers)}
    if not tied:
        shapes["lm_head.weight"] = [vocab, hidden]
    header = json.dumps(
        {name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()}
    ).encode()
    (directory / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_is_measured_from_its_headers(tmp_path: Path, tied: bool) -> None:
    write_model(tmp_path, tied=tied)
    facts = inspect(tmp_path, "bfloat16")
    assert facts.num_layers == 3
    assert facts.layer_bytes == 8 * 32 * 2
    assert facts.embedding_bytes == 32 * 8 * 2
    assert facts.head_bytes == (32 * 8 + 8) * 2
    assert facts.context_length == 512


@given(junk=st.binary(max_size=64))
def test_a_broken_model_is_refused_and_never_crashes(tmp_path_factory: Any, junk: bytes) -> None:
    directory = tmp_path_factory.mktemp("model")
    write_model(directory, tied=True)
    (directory / "model.safetensors").write_bytes(junk)
    with pytest.raises(ModelUnreadable):
        inspect(directory, "float32")


@pytest.mark.parametrize("name", ["", "../secrets", "tales/../../etc", "nothing"])
def test_a_model_is_only_found_below_the_model_directories(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelUnreadable):
        find_model(name, (tmp_path,))
