"""What is asked of a recomputation, and what it says: of every forward pass, what a receipt would be of.

Knows nothing of torch, of signatures or of who is accused. `shard_runtime.recompute` does the work.
"""

from collections.abc import Iterator
from typing import Annotated

import msgspec

from shard_runtime.messages import Dtype, Sampling

MAX_TOKENS = 131_072
"""Of prompt and completion."""
MAX_CONTEXT = 2**20
MAX_STAGES = 256
Hex64 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
Token = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


class Rerun(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One answer, to be computed again by layers `[cuts[0], cuts[1])`, `[cuts[1], cuts[2])` and so on.

    `cuts` begin with 0; when they end at `num_layers` the last stage picks tokens. The first pass takes
    `first_pass` of `ids` (prompt, then completion), every later one takes one more.
    """

    weights_digest: Hex64
    dtype: Dtype
    num_layers: int
    max_context: Annotated[int, msgspec.Meta(ge=1, le=MAX_CONTEXT)]
    cuts: Annotated[tuple[int, ...], msgspec.Meta(min_length=2, max_length=MAX_STAGES + 1)]
    ids: Annotated[tuple[Token, ...], msgspec.Meta(min_length=1, max_length=MAX_TOKENS)]
    first_pass: int
    sampling: Sampling


class Pass(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One forward pass of one stage over `n` tokens from position `step` on.

    The hashes are what a receipt of its segment says if the segment ends with this pass
    (`shard_runtime.receipts`): a request may end in the middle of a segment.
    """

    step: int
    n: int
    segment: int
    input_hash: Hex64
    output_hash: Hex64


class StagePasses(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Layers `[first_layer, end_layer)`; `passes` in their order."""

    first_layer: int
    end_layer: int
    passes: tuple[Pass, ...]


class Progress(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line on the process's stderr: so many of all the forward passes are through."""

    done: int
    passes: int


class Recomputed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`error` is set exactly when there are no stages: why it could not be computed here."""

    stages: tuple[StagePasses, ...] = ()
    error: str | None = None
    detail: str = ""


def positions(tokens: int, first_pass: int) -> Iterator[tuple[int, int]]:
    """(step, n) of every pass over so many tokens."""
    yield 0, first_pass
    for step in range(first_pass, tokens):
        yield step, 1
