"""What the exit tells the entry of each token: its id and, when asked, log-probabilities; as bytes and back.

Knows nothing of frames, of models or of text. On the wire it is 8-byte cells, little-endian: the token
(int64); then, when log-probabilities were asked for, the token's own (float64), and an (id, log-
probability) pair per likely token.
"""

import struct
from dataclasses import dataclass

MAX_LIKELY = 20
"""As many likely tokens as OpenAI's `top_logprobs` may ask for."""
NEVER = -9999.0
"""OpenAI's number for a token that can't come: JSON has no minus infinity."""


class PickedInvalid(Exception):
    """picked_invalid: the exit sent a token that is not well-formed; upgrade the older worker."""

    code = "picked_invalid"


@dataclass(frozen=True, slots=True)
class Picked:
    """`logprob` is None when nobody asked; `likely` are (id, log-probability), the most likely first.

    Log-probabilities are natural logarithms of the model's own distribution: softmax of the raw logits,
    before temperature, top_k and top_p.
    """

    token: int
    logprob: float | None = None
    likely: tuple[tuple[int, float], ...] = ()

    def cells(self) -> bytes:
        """8 bytes for the token alone; 8 * (2 + 2 * len(likely)) with log-probabilities."""
        if self.logprob is None:
            return struct.pack("<q", self.token)
        flat = [cell for pair in self.likely for cell in pair]
        return struct.pack("<qd" + "qd" * len(self.likely), self.token, self.logprob, *flat)

    @classmethod
    def of_cells(cls, cells: bytes | memoryview, vocab_size: int) -> "Picked":
        """Raises PickedInvalid: a wrong length, an id outside the vocabulary, what is no log-probability."""
        count = len(cells) // 8
        if len(cells) % 8 or count < 1 or (count > 1 and count % 2) or count > 2 + 2 * MAX_LIKELY:
            raise PickedInvalid(f"{len(cells)} bytes")
        layout = "<q" if count == 1 else "<qd" + "qd" * (count // 2 - 1)
        token, *rest = struct.unpack(layout, cells)
        if count == 1:
            picked = cls(token)
        else:
            picked = cls(token, rest[0], tuple(zip(rest[1::2], rest[2::2], strict=True)))
        ids = (token, *(likely for likely, _ in picked.likely))
        logprobs = (*([] if picked.logprob is None else [picked.logprob]), *(one for _, one in picked.likely))
        if not all(0 <= number < vocab_size for number in ids):
            raise PickedInvalid("an id is outside the vocabulary")
        if not all(NEVER <= one <= 0.0 for one in logprobs):
            raise PickedInvalid("not a log-probability")
        return picked
