"""Runs slices in memory, and Hugging Face `generate` beside them; knows nothing of sockets."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LogitsProcessor, LogitsProcessorList

from shard_runtime.messages import Sampling
from shard_runtime.sampling import gumbel, pick, warp
from shard_runtime.slices import Slice

Dtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Run:
    """Tokens generated, and the logits (vocab,) float32 each was picked from."""

    ids: list[int]
    logits: list[Tensor]


class WarpProcessor(LogitsProcessor):  # type: ignore[misc]
    """Our temperature, top_k and top_p inside `generate`."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        chosen = self.sampling
        return torch.stack([warp(row, chosen.temperature, chosen.top_k, chosen.top_p) for row in scores])


class GumbelProcessor(LogitsProcessor):  # type: ignore[misc]
    """Our noise inside `generate(do_sample=False)`: the argmax of what it returns is the sampled token."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        noise = gumbel(self.seed, input_ids.shape[1], scores.shape[1])
        return scores.double() + torch.from_numpy(noise)


def whole_model(model_dir: Path, dtype: Dtype) -> Any:
    """Hugging Face's model, with parameters moved to 64-byte aligned memory, as slices have them.

    `from_pretrained` leaves fp32 parameters where the mapped file has them, and the matrix kernels' last bit
    depends on that alignment (0 of 40 fp32 steps bit-equal unaligned, 40 of 40 aligned; tokens equal).
    """
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=getattr(torch, dtype)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
    return model


def generated(model: Any, prompt: Sequence[int], count: int, sampling: Sampling | None = None) -> Run:
    """What `generate(do_sample=False)` says, with our warpers and noise when `sampling` has a temperature."""
    processors = LogitsProcessorList()
    if sampling is not None and sampling.temperature > 0:
        processors = LogitsProcessorList([WarpProcessor(sampling), GumbelProcessor(sampling.seed)])
    result = model.generate(
        torch.tensor([list(prompt)]),
        max_new_tokens=count,
        do_sample=False,
        logits_processor=processors,
        return_dict_in_generate=True,
        output_logits=True,
    )
    return Run(result.sequences[0, len(prompt) :].tolist(), [row[0].float() for row in result.logits])


def load_cut(model_dir: Path, cuts: Sequence[int], dtype: Dtype, max_context: int = 256) -> list[Slice]:
    """One slice per neighbouring pair of `cuts`, e.g. [0, 3, 6] for two."""
    return [
        Slice.load(model_dir, first, end, dtype, max_context=max_context) for first, end in pairwise(cuts)
    ]


def sharded(
    slices: Sequence[Slice], prompt: Sequence[int], count: int, sampling: Sampling | None = None
) -> Run:
    """The same through slices one after the other, ended by the slices' own eos."""
    run = Run([], [])
    for token, logits in steps(slices, prompt, sampling or Sampling(seed=0)):
        run.ids.append(token)
        run.logits.append(logits)
        if len(run.ids) == count or token in slices[-1].eos_ids:
            break
    return run


def steps(slices: Sequence[Slice], prompt: Sequence[int], sampling: Sampling) -> Iterator[tuple[int, Tensor]]:
    """Prefill in one step, then token by token, without end."""
    caches = [piece.new_kv() for piece in slices]
    position, x = len(prompt), torch.tensor(list(prompt))
    while True:
        for piece, kv in zip(slices, caches, strict=True):
            x = piece.step(x, kv)
        token = pick(x, sampling, position)
        yield token, x
        position, x = position + 1, torch.tensor([token])
