"""Computes an answer again, stage by stage, with the worker's own loading and kernels.

`python -m shard_runtime.recompute DIR...`: a `Rerun` as JSON on stdin, `Recomputed` as JSON on stdout, lines
of `Progress` on stderr. One stage's weights and one request's KV are in memory at a time: all tokens being
known, a stage runs through all passes before the next is loaded. Knows nothing of signatures.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from shard_runtime.activations import to_bytes
from shard_runtime.architectures import ArchitectureUnsupported
from shard_runtime.kv import ContextExceeded
from shard_runtime.receipts import SegmentHashes, token_bytes
from shard_runtime.recomputed import Pass, Progress, Recomputed, Rerun, StagePasses, positions
from shard_runtime.sampling import LogitsNotFinite, pick
from shard_runtime.slices import Slice, SliceRangeInvalid
from shard_runtime.weights import (
    MANIFEST_NAME,
    Manifest,
    ModelNotFound,
    WeightsMismatch,
    WeightsUnreadable,
    trusted_manifest,
)

MAX_HIDDEN_BYTES = 2 * 2**30
"""Of the hidden states between two stages, all passes together."""
_EVERY = 16
"""Passes between two lines of progress."""
_DEPTH = 2
"""So many directories below a model directory a model may be: `owner/name`."""

Told = Callable[[Progress], None]


class RerunInvalid(Exception):
    """rerun_invalid: layers, tokens and first step can't be those of one answer of this model."""

    code = "rerun_invalid"


class RerunTooLarge(Exception):
    """rerun_too_large: the hidden states of so many tokens are too many bytes; judge a shorter answer."""

    code = "rerun_too_large"


NAMED = (
    ArchitectureUnsupported, ContextExceeded, LogitsNotFinite, ModelNotFound, RerunInvalid, RerunTooLarge,
    SliceRangeInvalid, WeightsMismatch, WeightsUnreadable,
)  # fmt: skip


def find_model(directories: Sequence[Path], weights_digest: str) -> Path:
    """The model with this digest: one of `directories`, or at most two levels below one of them.

    A model whose manifest is beside it is not hashed to be found. Raises ModelNotFound.
    """
    found = [path for directory in directories for path in _models_in(directory.resolve(), _DEPTH)]
    for path in sorted(found, key=lambda path: _digest_beside(path) != weights_digest):
        beside = _digest_beside(path)
        if beside is None or beside == weights_digest:
            with contextlib.suppress(WeightsMismatch, WeightsUnreadable):
                trusted_manifest(path, weights_digest)
                return path
    named = ", ".join(map(str, directories)) or "any directory (none was named)"
    raise ModelNotFound(f"no model below {named} has the weights {weights_digest}")


def recompute(rerun: Rerun, model_dir: Path, told: Told) -> tuple[StagePasses, ...]:
    """Every pass of every stage. Raises what `NAMED` lists."""
    _check(rerun)
    steps = list(positions(len(rerun.ids), rerun.first_pass))
    ids = torch.tensor(rerun.ids, dtype=torch.int64)
    between = [ids[step : step + n] for step, n in steps]
    stages: list[StagePasses] = []

    def through(first: int, end: int) -> StagePasses:
        """Its weights and KV are free again when it returns."""
        slice_ = _loaded(rerun, model_dir, first, end)
        passes: list[Pass] = []
        for one in _passes(slice_, steps, between, rerun):
            passes.append(one)
            if len(passes) % _EVERY == 0 or len(passes) == len(steps):
                done, all_passes = len(stages) * len(steps), (len(rerun.cuts) - 1) * len(steps)
                told(Progress(done + len(passes), all_passes))
        return StagePasses(first, end, tuple(passes))

    for first, end in pairwise(rerun.cuts):
        stages.append(through(first, end))
    return tuple(stages)


def _loaded(rerun: Rerun, model_dir: Path, first: int, end: int) -> Slice:
    slice_ = Slice.load(
        model_dir, first, end, rerun.dtype,
        max_context=rerun.max_context, expect_digest=rerun.weights_digest,
    )  # fmt: skip
    if slice_.num_layers != rerun.num_layers:
        raise RerunInvalid(f"the model has {slice_.num_layers} layers, not {rerun.num_layers}")
    if len(rerun.ids) * slice_.d_model * slice_.dtype.itemsize > MAX_HIDDEN_BYTES:
        raise RerunTooLarge(f"{len(rerun.ids)} tokens of {slice_.d_model} numbers each")
    return slice_


def _check(rerun: Rerun) -> None:
    ordered = all(before < after for before, after in pairwise(rerun.cuts))
    if rerun.cuts[0] != 0 or not ordered or rerun.cuts[-1] > rerun.num_layers:
        raise RerunInvalid(f"layers are cut at {rerun.cuts}")
    if not 1 <= rerun.first_pass <= len(rerun.ids) or len(rerun.ids) > rerun.max_context:
        raise RerunInvalid(
            f"{rerun.first_pass} of {len(rerun.ids)} tokens at once, context {rerun.max_context}"
        )


def _passes(
    slice_: Slice, steps: list[tuple[int, int]], between: list[Tensor], rerun: Rerun
) -> Iterator[Pass]:
    """One stage's passes; `between` holds what each takes, and afterwards what each gave."""
    kv, hashes = slice_.new_kv(rerun.max_context), SegmentHashes(rerun.sampling if slice_.is_exit else None)
    for number, (step, n) in enumerate(steps):
        given = between[number]
        try:
            out = slice_.step(given, kv)
        except ValueError as wrong:
            raise RerunInvalid(str(wrong)) from wrong
        taken = token_bytes(tuple(given.tolist())) if slice_.is_entry else to_bytes(given)
        if slice_.is_exit:
            made: bytes | memoryview = token_bytes((pick(out, rerun.sampling, step + n),))
        else:
            made, between[number] = to_bytes(out), out
        hashes.add(step, n, taken, made)
        now = hashes.latest()
        yield Pass(step, n, now.segment, now.input_hash, now.output_hash)


def _models_in(directory: Path, depth: int) -> Iterator[Path]:
    if (directory / "config.json").is_file():
        yield directory
    elif depth > 0 and directory.is_dir():
        for below in sorted(directory.iterdir()):
            if below.is_dir():
                yield from _models_in(below, depth - 1)


def _digest_beside(model_dir: Path) -> str | None:
    """Of the manifest beside a model; None when there is none."""
    try:
        return Manifest.from_json((model_dir / MANIFEST_NAME).read_bytes()).digest
    except (OSError, ValueError):
        return None


def answer(raw: bytes, directories: Sequence[Path], told: Told) -> Recomputed:
    """Whatever goes wrong by a name is an answer, too."""
    try:
        rerun = msgspec.json.decode(raw, type=Rerun)
    except msgspec.DecodeError as malformed:
        return Recomputed(error=RerunInvalid.code, detail=str(malformed))
    try:
        return Recomputed(recompute(rerun, find_model(directories, rerun.weights_digest), told))
    except NAMED as failed:
        return Recomputed(error=failed.code, detail=str(failed))


def main(arguments: Sequence[str]) -> int:
    torch.set_num_threads(1)  # as the worker's compute thread: the number of threads may change bits

    def told(progress: Progress) -> None:
        print(msgspec.json.encode(progress).decode(), file=sys.stderr, flush=True)

    said = answer(sys.stdin.buffer.read(), [Path(directory) for directory in arguments], told)
    sys.stdout.buffer.write(msgspec.json.encode(said))
    return 0 if said.error is None else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
