"""Picks the next token as a pure function of logits, seed and position; knows nothing of requests or KV.

Gumbel-max: the token with the largest (warped logit + Gumbel noise) is a draw from the warped softmax. The
noise is keyed by (seed, position), so a replay, a takeover or an audit draws the same token.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from shard_runtime.messages import Sampling
from shard_runtime.picked import MAX_LIKELY, NEVER, Picked

GREEDY_BELOW = 1e-5
"""Temperatures below this are greedy: the softmax is one-hot there, and dividing overflows float32."""

_KEEP_AT_LEAST = 1


class LogitsNotFinite(Exception):
    """logits_not_finite: the model computed NaN; check its weights and dtype, then load the slice again."""

    code = "logits_not_finite"


def gumbel(seed: int, position: int, vocab: int) -> npt.NDArray[np.float64]:
    """Standard Gumbel noise (vocab,), the same for the same (seed, position) on every machine.

    Philox-4x64 keyed by both numbers (64-bit unsigned); the top 53 bits of word i make token i's uniform.
    A longer vocabulary only appends. Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3 (2011).
    """
    key = np.array([seed, position], dtype=np.uint64)
    words = np.random.Philox(key=key, counter=0).random_raw(vocab)
    uniform = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return np.asarray(-np.log(-np.log(uniform)), dtype=np.float64)


def warp(logits: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    """Scaled logits (vocab,) float32 with the filtered ones at -inf; temperature, then top_k, then top_p.

    top_k 0 and top_p 1 are off; at least one token always stays. Tokens as likely as the k-th stay too.
    """
    warped = logits / temperature if temperature != 1.0 else logits
    if 0 < top_k < warped.shape[0]:
        smallest = torch.topk(warped, top_k).values[-1]
        warped = warped.masked_fill(warped < smallest, -torch.inf)
    if top_p < 1.0:
        ascending, order = torch.sort(warped)
        dropped = ascending.softmax(-1).cumsum(-1) <= 1 - top_p
        dropped[-_KEEP_AT_LEAST:] = False
        warped = warped.masked_fill(torch.zeros_like(dropped).scatter(0, order, dropped), -torch.inf)
    return warped


def pick(logits: Tensor, sampling: Sampling, position: int) -> int:
    """The token at `position` (tokens before it in the whole sequence). logits: (vocab,) float32.

    Raises LogitsNotFinite when there is a NaN, or nothing above -inf.
    """
    if sampling.temperature < GREEDY_BELOW:
        token = int(logits.argmax())
        if not torch.isfinite(logits[token]):
            raise LogitsNotFinite(f"the best logit at position {position} is {float(logits[token])}")
        return token
    scores = warp(logits, sampling.temperature, sampling.top_k, sampling.top_p).double().numpy()
    token = int(np.argmax(scores + gumbel(sampling.seed, position, scores.shape[0])))
    if not np.isfinite(scores[token]):
        raise LogitsNotFinite(f"the best logit at position {position} is {scores[token]}")
    return token


def weighed(logits: Tensor, token: int, count: int) -> Picked:
    """`token` with its log-probability and the `count` (at most MAX_LIKELY) most likely ones.

    logits: (vocab,) float32, raw: neither temperature nor top_k nor top_p changes what comes out.
    """
    logprobs = logits.double().log_softmax(-1)
    logprobs = logprobs.clamp(NEVER, 0.0)
    values, ids = logprobs.topk(min(count, MAX_LIKELY, logprobs.shape[0]))
    likely = zip(ids.tolist(), values.tolist(), strict=True)
    return Picked(token, float(logprobs[token]), tuple(likely))
