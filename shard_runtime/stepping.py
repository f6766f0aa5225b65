"""One step on the compute thread: a neighbour's bytes or token ids in, bytes or the picked token out.

Knows nothing of frames, of rings or of the event loop.
"""

import time
from dataclasses import dataclass

import torch

from shard_runtime.activations import ActivationInvalid, from_bytes, to_bytes
from shard_runtime.arrivals import Arrived
from shard_runtime.kv import KvSlot
from shard_runtime.picked import Picked
from shard_runtime.receipts import token_bytes
from shard_runtime.sampling import pick, weighed
from shard_runtime.slices import Slice
from shard_runtime.work import Work


@dataclass(frozen=True, slots=True)
class Result:
    """Of one step: bytes for the next stage, or the picked token."""

    payload: memoryview
    shape: tuple[int, ...]
    picked: Picked | None
    compute_ns: int


def computed(
    slice_: Slice, kv: KvSlot, work: Work, step: int, n: int, given: torch.Tensor | Arrived
) -> Result:
    """`n` tokens from position `step` on: int64 ids (n,), or hidden states (n, d_model) as they came.

    Raises ActivationInvalid and what Slice.step raises; then the step is in no receipt.
    """
    begun = time.perf_counter_ns()
    x = from_bytes(given.payload, given.dtype, given.shape) if isinstance(given, Arrived) else given
    if kv.length != step:
        raise ActivationInvalid(f"step {step} after {kv.length} tokens")
    out = slice_.step(x, kv)
    picked: Picked | None = None
    if slice_.is_exit:
        token, asked = pick(out, work.sampling, step + n), work.sampling.logprobs
        picked = Picked(token) if asked is None else weighed(out, token, asked)
    payload = to_bytes(out) if picked is None else memoryview(b"")
    if work.ledger is not None:
        taken = given.payload if isinstance(given, Arrived) else x.numpy().tobytes()
        made = payload if picked is None else token_bytes((picked.token,))
        work.ledger.hashes.add(step, n, taken, made)
    return Result(payload, tuple(out.shape), picked, time.perf_counter_ns() - begun)
