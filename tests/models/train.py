"""Trains the committed model of tales from nothing, on generated text: `python -m tests.models.train`.

Knows nothing of shards, services or the tests that use the model.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.models.small_talk import chat
from tests.models.story_text import held_out_prompts, names_subject, worst_four_gram

HERE = Path(__file__).parent
SPECIAL = ("<|pad|>", "<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
PAD, BEGIN, END, _, _, ASSISTANT = range(len(SPECIAL))
CONTEXT = 512  # tokens

CHAT_TEMPLATE = """\
{{- '<|begin|>' -}}
{%- for message in messages -%}
    {%- set role = 'system' if message['role'] == 'developer' else message['role'] -%}
    {%- if role not in ['system', 'user', 'assistant'] -%}
        {{- raise_exception('role ' ~ role ~ ' is unknown to this model: use system, user or assistant') -}}
    {%- endif -%}
    {{- '<|' ~ role ~ '|>' -}}
    {%- if message['content'] is string -%}
        {{- message['content'] | trim -}}
    {%- else -%}
        {%- for part in message['content'] or [] if part['type'] == 'text' -%}
            {{- part['text'] | trim -}}
        {%- endfor -%}
    {%- endif -%}
    {{- '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|assistant|>' -}}
{%- endif -%}
"""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result, besides the machine's arithmetic."""

    seed: int = 1
    vocabulary: int = 2048
    tokenizer_chats: int = 12_000
    hidden: int = 192
    layers: int = 6
    heads: int = 6
    kv_heads: int = 2
    ffn: int = 512
    steps: int = 1000
    chats_per_step: int = 24
    warmup: int = 40
    matrix_rate: float = 4e-3  # Muon, update scaled to AdamW's size
    other_rate: float = 4e-3  # AdamW: embedding and norms
    decay: float = 0.05
    scale: float = 1.0  # of both rates


def train_tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer over the special tokens and `tokenizer_chats` generated chats."""
    rng = random.Random(f"tokenizer {recipe.seed}")
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (message["content"] for _ in range(recipe.tokenizer_chats) for message in chat(rng))
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<|begin|>",
        eos_token="<|end|>",
        pad_token="<|pad|>",
        additional_special_tokens=["<|system|>", "<|user|>", "<|assistant|>"],
        model_max_length=CONTEXT,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def untrained_model(recipe: Recipe) -> LlamaForCausalLM:
    """The Llama network with random weights from the recipe's seed, fp32."""
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=recipe.vocabulary,
        hidden_size=recipe.hidden,
        intermediate_size=recipe.ffn,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.kv_heads,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=BEGIN,
        eos_token_id=END,
        pad_token_id=PAD,
    )
    return LlamaForCausalLM(config)


def answer_labels(ids: list[int]) -> list[int]:
    """The same ids, with -100 (no loss) at every position outside an assistant's text and its end token."""
    labels, inside = [], False
    for token in ids:
        labels.append(token if inside else -100)
        inside = token == ASSISTANT or (inside and token != END)
    return labels


def batches(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless (ids, labels), each (chats_per_step, longest) int64, fresh chats of like length, padded."""
    rng = random.Random(f"training {recipe.seed}")
    while True:
        texts = [
            tokenizer.apply_chat_template(chat(rng), tokenize=False)
            for _ in range(recipe.chats_per_step * 16)
        ]
        rows = sorted(
            (ids[:CONTEXT] for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]), key=len
        )
        groups = [rows[at : at + recipe.chats_per_step] for at in range(0, len(rows), recipe.chats_per_step)]
        rng.shuffle(groups)
        for group in groups:
            longest = max(map(len, group))
            ids = torch.tensor([row + [PAD] * (longest - len(row)) for row in group])
            labels = torch.tensor([answer_labels(row) + [-100] * (longest - len(row)) for row in group])
            yield ids, labels


def judge(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, family: str, count: int
) -> tuple[int, str]:
    """How many of `count` greedy answers to a family end, vary and name the subject; and a sample."""
    good, sample = 0, ""
    for prompt, subject in held_out_prompts(family, count, seed=0):
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            made = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=200,
                do_sample=False,
                pad_token_id=PAD,
                eos_token_id=END,
            )[0, ids.shape[1] :].tolist()
        answer = tokenizer.decode(made, skip_special_tokens=True)
        right = made[-1] == END and worst_four_gram(answer) <= 2 and names_subject(answer, subject)
        good += right
        sample = f"{prompt}\n  -> {answer}" if not sample or not right else sample
    return good, sample


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, where: Path) -> None:
    """Write what `AutoModelForCausalLM` and `AutoTokenizer` load: bf16 weights, tokenizer, configs."""
    state = {name: tensor.to(torch.bfloat16) for name, tensor in model.state_dict().items()}
    half = LlamaForCausalLM(model.config).to(torch.bfloat16)
    half.load_state_dict(state)
    half.generation_config = GenerationConfig(
        bos_token_id=BEGIN, eos_token_id=END, pad_token_id=PAD, do_sample=False, max_new_tokens=256
    )
    half.save_pretrained(where)
    tokenizer.save_pretrained(where)
    (where / "model.safetensors").chmod(0o644)  # safetensors writes 0600, git clones 0644


def train(recipe: Recipe, where: Path, *, start: Path | None, check_every: int) -> dict[str, float]:
    """Train by the recipe and save into `where`; returns figures of the run (steps, tokens, loss, s).

    `start` is a directory saved before, to go on from with its tokenizer and weights; None begins anew.
    """
    if start is None:
        tokenizer, model = train_tokenizer(recipe), untrained_model(recipe)
    else:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(start, local_files_only=True)
        for how_loaded in ("is_local", "local_files_only"):  # else these would be saved with the tokenizer
            tokenizer.init_kwargs.pop(how_loaded, None)
        model = LlamaForCausalLM.from_pretrained(start, dtype=torch.float32, local_files_only=True).train()
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "layers." in name]
    others = [p for name, p in model.named_parameters() if not (p.ndim == 2 and "layers." in name)]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(
            matrices, lr=recipe.matrix_rate, weight_decay=recipe.decay, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(others, lr=recipe.other_rate, weight_decay=0.0, betas=(0.9, 0.95)),
    ]

    def rate(step: int) -> float:
        if step < recipe.warmup:
            return recipe.scale * (step + 1) / recipe.warmup
        turn = math.pi * (step - recipe.warmup) / (recipe.steps - recipe.warmup)
        return recipe.scale * (0.02 + 0.98 * 0.5 * (1 + math.cos(turn)))

    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, rate) for optimizer in optimizers]
    began, tokens, loss_mean, source = time.monotonic(), 0, 0.0, batches(recipe, tokenizer)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        task = progress.add_task("training", total=recipe.steps)
        for step in range(1, recipe.steps + 1):
            ids, labels = next(source)
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(input_ids=ids, labels=labels, use_cache=False).loss
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer, schedule in zip(optimizers, schedules, strict=True):
                optimizer.step()
                schedule.step()
            tokens += ids.numel()
            value = float(loss.detach())
            loss_mean = value if step == 1 else 0.95 * loss_mean + 0.05 * value
            progress.update(task, completed=step, description=f"loss {loss_mean:.3f}")
            if step % check_every == 0 or step == recipe.steps:
                model.eval()
                good, sample = judge(model, tokenizer, "stage", 8)
                model.train()
                seconds = time.monotonic() - began
                progress.console.print(
                    f"step {step}  loss {loss_mean:.3f}  {seconds:.0f} s  good {good}/8\n  {sample}",
                    markup=False,
                )
                save(model, tokenizer, where)
    return {
        "parameters": float(sum(p.numel() for p in model.parameters())),
        "steps": float(recipe.steps),
        "tokens": float(tokens),
        "loss": round(loss_mean, 4),
        "seconds": round(time.monotonic() - began, 1),
    }


def main() -> None:
    """Parse the options, train, and print the recipe with the run's figures as one JSON object."""
    parser = argparse.ArgumentParser(description="train the tale-telling model")
    parser.add_argument("--out", type=Path, default=HERE / "tales", help="directory to write")
    parser.add_argument("--start", type=Path, help="directory to go on from, instead of from nothing")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--scale", type=float, default=Recipe.scale, help="factor on the learning rates")
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads for torch")
    parser.add_argument(
        "--check-every", type=int, default=200, help="steps between trials on the development family"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    recipe = Recipe(seed=options.seed, steps=options.steps, scale=options.scale)
    figures = train(recipe, options.out, start=options.start, check_every=options.check_every)
    print(json.dumps({"recipe": asdict(recipe), "figures": figures}))


if __name__ == "__main__":
    main()
