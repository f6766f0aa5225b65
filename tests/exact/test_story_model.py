"""The committed model of tales answers wordings it never saw in training: answers end, vary, name whom asked.

Knows nothing of shards: one process, `generate`, fp32, greedy.
"""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.models.prompts import DEVELOPMENT, HELD_OUT, TRAINING
from tests.models.small_talk import chat
from tests.models.story_text import held_out_prompts, is_held_out, names_subject, story_turn, worst_four_gram
from tests.models.words import Subject

TALES = Path(__file__).parents[1] / "models" / "tales"
SEED, PROMPTS, NEEDED, MAX_NEW_TOKENS = 7, 20, 16, 200


@cache
def _loaded() -> tuple[Any, Any]:
    """The model in fp32 and its tokenizer, from files alone."""
    model = AutoModelForCausalLM.from_pretrained(TALES, dtype=torch.float32, local_files_only=True)
    return model.eval(), AutoTokenizer.from_pretrained(TALES, local_files_only=True)


def _answer(messages: list[dict[str, str]]) -> tuple[str, bool]:
    """The greedy answer to a chat, and whether it ended by itself within MAX_NEW_TOKENS."""
    model, tokenizer = _loaded()
    asked = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.no_grad():
        ids = model.generate(**asked, do_sample=False, max_new_tokens=MAX_NEW_TOKENS)[
            0, asked["input_ids"].shape[1] :
        ]
    return tokenizer.decode(ids, skip_special_tokens=True), int(ids[-1]) == tokenizer.eos_token_id


def _faults(answer: str, ended: bool, subject: Subject) -> list[str]:
    """What is wrong with an answer; empty when nothing is."""
    faults = []
    if not ended:
        faults.append(f"no end within {MAX_NEW_TOKENS} tokens")
    if (times := worst_four_gram(answer)) > 2:
        faults.append(f"four words said {times} times")
    if not names_subject(answer, subject):
        faults.append(f"{subject.noun} {subject.name}".strip() + " not named")
    return faults


@pytest.mark.long
@pytest.mark.parametrize("family", HELD_OUT)
def test_tells_tales_for_wordings_never_trained_on(family: str) -> None:
    assert family not in TRAINING | DEVELOPMENT
    good = 0
    for number, (prompt, subject) in enumerate(held_out_prompts(family, PROMPTS, SEED), 1):
        answer, ended = _answer([{"role": "user", "content": prompt}])
        faults = _faults(answer, ended, subject)
        good += not faults
        print(f"\n{number:2} {prompt}\n   {answer}\n   -> {'; '.join(faults) or 'good'}")
    print(f"\n{family}: {good} of {PROMPTS} good, {NEEDED} needed")
    assert good >= NEEDED


def test_training_text_keeps_away_from_what_is_held_out() -> None:
    rng = random.Random(11)
    openings = {
        prompt[:12] for family in HELD_OUT | DEVELOPMENT for prompt, _ in held_out_prompts(family, 5, 0)
    }
    for _ in range(1500):
        (asked, told), wish = story_turn(rng)
        assert not is_held_out(wish.subject.noun, wish.place, wish.plot.key)
        assert not any(opening in asked["content"] for opening in openings)
        assert wish.subject.noun in told["content"]
        assert worst_four_gram(told["content"]) == 1


def test_same_seed_gives_the_same_chats() -> None:
    first, second = random.Random(5), random.Random(5)
    assert [chat(first) for _ in range(50)] == [chat(second) for _ in range(50)]
    assert chat(first) != chat(random.Random(6))


@pytest.mark.parametrize(
    ("answer", "ended", "faults"),
    [
        ("The shy otter named Pim slept.", True, []),
        ("The shy otter named Pim slept.", False, ["no end within 200 tokens"]),
        ("A fox named Pim slept.", True, ["otter Pim not named"]),
        ("An otter slept.", True, ["otter Pim not named"]),
        ("Pim the otter " * 4, True, ["four words said 3 times"]),
    ],
)
def test_verdict_sees_each_fault(answer: str, ended: bool, faults: list[str]) -> None:
    assert _faults(answer, ended, Subject("otter", "shy", "Pim", "wild", "he")) == faults


def test_chat_remembers_the_tale_it_told() -> None:
    asked = {"role": "user", "content": "Tell me a story about a brave fox."}
    tale, ended = _answer([asked])
    assert ended
    told = {"role": "assistant", "content": tale}
    reply, ended = _answer([asked, told, {"role": "user", "content": "Who was the story about?"}])
    print(f"\n{tale}\n   who? {reply}")
    assert ended
    assert "fox" in reply


def test_template_renders_openai_messages() -> None:
    _, tokenizer = _loaded()
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": " Hi "}]},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "a story"},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|begin|><|system|>Be brief.<|end|><|user|>Hi<|end|>"
        "<|assistant|>Hello<|end|><|user|>a story<|end|><|assistant|>"
    )
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids == tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("text", ["naïve café, 你好, 🦊!", "  two  spaces\n\tand a tab", "don't stop"])
def test_tokenizer_loses_nothing(text: str) -> None:
    _, tokenizer = _loaded()
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_files_are_small_and_shaped_for_three_shards() -> None:
    model, _ = _loaded()
    assert model.config.num_hidden_layers >= 6
    assert model.config.num_key_value_heads < model.config.num_attention_heads
    assert model.config.tie_word_embeddings
    assert sum(file.stat().st_size for file in TALES.iterdir()) <= 6_291_456
