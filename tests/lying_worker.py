"""A real worker that lies in one way, as its first argument says; the others are the worker's own.

`output:<position>`: what the step that leads there gives out is not what was computed, but one bit
off or, at the exit, picked from other logits; it signs what it gave out. `usage:<tokens>`: as an entry,
it accounts for so many tokens more than were generated.
"""

import sys
from typing import Any

import torch
from msgspec.structs import replace

from shard_runtime.receipting import Receipting
from shard_runtime.receipts import Usage
from shard_runtime.slices import Slice
from shard_runtime.work import Ledger


def spoilt(out: torch.Tensor) -> torch.Tensor:
    """Logits (vocab,) turned upside down, or hidden states (tokens, d_model) with a bit flipped."""
    if out.dim() == 1:
        return -out
    other = out.clone()
    other.view(torch.uint8)[-1, 0] ^= 1
    return other


def lie_in_output(position: int) -> None:
    step = Slice.step

    def lying(self: Slice, x: torch.Tensor, kv: Any) -> torch.Tensor:
        leads_to = kv.length + len(x)
        out = step(self, x, kv)
        return spoilt(out) if leads_to == position else out

    Slice.step = lying  # type: ignore[method-assign]


def lie_in_usage(tokens: int) -> None:
    account = Receipting.account

    def lying(self: Receipting, ledger: Ledger, session_id: str, rid: str, usage: Usage) -> Usage:
        more = replace(usage, completion_tokens=usage.completion_tokens + tokens)
        return account(self, ledger, session_id, rid, more)

    Receipting.account = lying  # type: ignore[method-assign]


LIES = {"output": lie_in_output, "usage": lie_in_usage}


if __name__ == "__main__":
    kind, _, number = sys.argv.pop(1).partition(":")
    LIES[kind](int(number))
    from shard_runtime.worker import main

    main()
