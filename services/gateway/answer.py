"""What is asked of a ring and what it answers, as values; knows nothing of how either travels."""

from dataclasses import dataclass

from services.gateway.logprobs import Spelt
from services.receipts.check import Checked
from shard_runtime import messages


@dataclass(frozen=True)
class Wish:
    """What is asked of a ring. `seed` is 63 bit; `prompt` is the text that the commitment is of."""

    prompt: str
    prompt_ids: tuple[int, ...]
    max_tokens: int
    sampling: messages.Sampling
    stop: tuple[str, ...]


@dataclass(frozen=True)
class Ended:
    """How a generation ended, by the entry's own account."""

    finish_reason: messages.FinishReason
    prompt_tokens: int
    completion_tokens: int
    hops: tuple[messages.HopTiming, ...]
    prefill_ms: float
    decode_ms: float
    signed: Checked | None
    """What the ring's nodes signed of it; None: it is not paid."""


@dataclass(frozen=True)
class Piece:
    """New text, and the tokens that are now shown in whole; these only when log-probabilities were asked
    for.
    """

    text: str
    tokens: tuple[Spelt, ...] = ()
