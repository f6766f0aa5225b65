"""Which bytes of a text each of its tokens gave, so that log-probabilities can stand beside what is shown.

Knows nothing of stop strings or of models: it is told the text that each token brought and how much is shown.
"""

import codecs
import re
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tokenizers import decoders

_BYTE_TOKEN = re.compile(r"^<0x([0-9A-F]{2})>$")


class Speller:
    """How single tokens of a vocabulary are written. A special token is its own name."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.special = special_ids(tokenizer)
        self._byte_level = is_byte_level(tokenizer)
        self.spell = lru_cache(maxsize=65_536)(self._spell)

    def _spell(self, token_id: int) -> bytes:
        """The token's bytes in the middle of a text; b"" for an id without a token."""
        token = self._tokenizer.convert_ids_to_tokens(token_id)
        if token is None:
            return b""
        if token_id in self.special:
            return str(token).encode()
        if self._byte_level:
            return bytes_of(token)
        if (single := _BYTE_TOKEN.match(token)) is not None:
            return bytes.fromhex(single[1])
        once, twice = self._decode([token_id]), self._decode([token_id, token_id])
        return twice[len(once) :].encode()

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


@dataclass(frozen=True, slots=True)
class _Said:
    """One token: its bytes, the character they begin in, and the characters that must be shown to show them
    all.
    """

    spelled: bytes
    begin: int
    needs: int
    carried: bytes
    """The bytes of character `begin` that earlier tokens gave."""


class Spelling:
    """Use: `add` each token with the text it brought, `finish` with the rest, `show` what was shown; then
    `take`.
    """

    def __init__(self, speller: Speller) -> None:
        self._speller = speller
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._unsettled: list[int] = []
        """Tokens whose characters are not complete."""
        self._said: deque[_Said] = deque()
        self._chars = 0
        self._out: list[bytes] = []

    def add(self, token_id: int, brought: str) -> None:
        """`brought`: the characters that this token completed."""
        self._unsettled.append(token_id)
        if brought:
            self._settle(brought, final=False)

    def finish(self, brought: str) -> None:
        """No more tokens come; `brought` are the characters that stayed incomplete."""
        self._settle(brought, final=True)

    def show(self, chars: int) -> None:
        """The first `chars` characters are shown."""
        while self._said and self._said[0].needs <= chars:
            self._out.append(self._said.popleft().spelled)

    def cut(self, chars: int) -> None:
        """A stop string ended the text after `chars` characters: each token keeps what is shown of it."""
        self.show(chars)
        self._out += [_kept(said, chars - said.begin) for said in self._said]
        self._out += [b""] * len(self._unsettled)
        self._said.clear()
        self._unsettled.clear()

    def take(self) -> tuple[bytes, ...]:
        """What the next tokens, in order, gave to the text."""
        out, self._out = tuple(self._out), []
        return out

    def _settle(self, brought: str, *, final: bool) -> None:
        speller = self._speller
        ids, self._unsettled = self._unsettled, []
        spelled = [b"" if number in speller.special else speller.spell(number) for number in ids]
        before = self._utf8.getstate()
        if self._utf8.decode(b"".join(spelled), final=final) != brought:
            # The vocabulary's own decoder changed something (a leading space, a break in a character).
            spelled = [b""] * (len(ids) - 1) + [brought.encode()] if ids else []
            before = (b"", 0)
        self._utf8.setstate(before)
        begun = self._chars
        for piece in spelled:
            carried = self._utf8.getstate()[0]
            begin = self._chars
            self._chars += len(self._utf8.decode(piece))
            needs = self._chars + bool(self._utf8.getstate()[0]) if piece else begin
            self._said.append(_Said(piece, begin, needs, carried))
        self._chars = begun + len(brought)
        if final:
            self._utf8.reset()


def _kept(said: _Said, chars: int) -> bytes:
    """Its bytes up to the end of the `chars`-th character it has a part in."""
    if chars <= 0:
        return b""
    utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
    utf8.decode(said.carried)
    count = 0
    for number in range(len(said.spelled)):
        count += len(utf8.decode(said.spelled[number : number + 1]))
        if count >= chars:
            return said.spelled[: number + (count == chars)]
    return said.spelled


def special_ids(tokenizer: Any) -> frozenset[int]:
    return frozenset(number for number, token in tokenizer.added_tokens_decoder.items() if token.special)


def is_byte_level(tokenizer: Any) -> bool:
    """Whether its tokens are written in GPT-2's alphabet of bytes."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend is not None and isinstance(backend.decoder, decoders.ByteLevel)


def _gpt2_alphabet() -> dict[str, int]:
    """Byte-level BPE writes a byte as one visible character: itself where printable, else from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(0x100 + number): byte for number, byte in enumerate(others)}


_BYTE_OF = _gpt2_alphabet()


def bytes_of(token: str) -> bytes:
    """Of a byte-level token. An added one may hold characters outside the alphabet: then it stands for
    itself.
    """
    try:
        return bytes(_BYTE_OF[character] for character in token)
    except KeyError:
        return token.encode()
