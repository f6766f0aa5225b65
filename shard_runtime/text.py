"""Turns token ids into text as they come, whole UTF-8, never past a stop string; knows nothing of torch."""

import codecs
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from transformers import AutoTokenizer

from shard_runtime.spelling import Speller, Spelling, bytes_of, is_byte_level, special_ids

_REPLACEMENT = "\ufffd"
_LONGEST_WINDOW = 64
"""Tokens decoded again at most, while a SentencePiece text ends within a character."""


def load_tokenizer(model_dir: Path) -> Any:
    """The model's own tokenizer, from its directory only, never with code from there."""
    return AutoTokenizer.from_pretrained(str(model_dir), local_files_only=True, trust_remote_code=False)


class _Decoder(Protocol):
    """New text of one more token; "" while it ends inside a character."""

    def push(self, token_id: int) -> str: ...

    def flush(self) -> str: ...


class IncrementalText:
    """The text of a growing list of tokens, cut at the first stop string.

    `text` is all that was given out; after `flush` it equals the tokenizer's decode of all ids (special
    tokens skipped, no clean-up of spaces) up to the stop string that completes first. A token costs O(1).
    With a `speller`, `spelled` tells which bytes of the text each token gave.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = (), speller: Speller | None = None) -> None:
        if not all(stop):
            raise ValueError("an empty stop string would stop before the first token")
        self.stopped = False
        self._parts: list[str] = []
        self._held = ""
        self._stop = tuple(stop)
        self._decoder: _Decoder = _decoder_for(tokenizer)
        self._spelling = None if speller is None else Spelling(speller)
        self._shown = 0

    @property
    def text(self) -> str:
        """All text given out so far."""
        return "".join(self._parts)

    def push(self, token_id: int) -> str:
        """Text that may be shown now: whole characters, no end that may turn out to begin a stop."""
        if self.stopped:
            return ""
        new = self._decoder.push(token_id)
        if self._spelling is not None:
            self._spelling.add(token_id, new)
        return self._release(new, last=False)

    def flush(self) -> str:
        """The rest, when no more tokens come; an unfinished character becomes U+FFFD, as in decode."""
        if self.stopped:
            return ""
        new = self._decoder.flush()
        if self._spelling is not None:
            self._spelling.finish(new)
        return self._release(new, last=True)

    def spelled(self) -> tuple[bytes, ...]:
        """What the next tokens, in order, gave to the text shown so far (b"": nothing); each is told once.

        A token is told when all it gave is shown. At the end every token has been told, and together they
        spell the text, wherever it is whole UTF-8. Without a speller: nothing.
        """
        return () if self._spelling is None else self._spelling.take()

    def _release(self, new: str, *, last: bool) -> str:
        begin = len(self._held)
        self._held += new
        shown = len(self._held)
        if self._stop and (cut := self._first_stop(begin)) is not None:
            self.stopped, shown = True, cut
        elif self._stop and not last:
            shown -= self._possible_stop()
        out, self._held = self._held[:shown], "" if self.stopped else self._held[shown:]
        if out:
            self._parts.append(out)
            self._shown += len(out)
        if self._spelling is not None:
            (self._spelling.cut if self.stopped else self._spelling.show)(self._shown)
        return out

    def _first_stop(self, begin: int) -> int | None:
        """Where the stop string that completes first begins; the longer one of two that end together."""
        ends = []
        for stop in self._stop:
            at = self._held.find(stop, max(0, begin - len(stop) + 1))
            if at >= 0:
                ends.append((at + len(stop), at))
        return min(ends)[1] if ends else None

    def _possible_stop(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = min(len(self._held), max(map(len, self._stop)) - 1)
        ends = (length for length in range(longest, 0, -1) if self._ends_like(length))
        return next(ends, 0)

    def _ends_like(self, length: int) -> bool:
        end = self._held[-length:]
        return any(stop.startswith(end) for stop in self._stop)


class _ByteLevel:
    """For byte-level vocabularies (GPT-2's alphabet): a token is some bytes, UTF-8 is decoded as it comes."""

    def __init__(self, tokenizer: Any) -> None:
        self._token_of = tokenizer.convert_ids_to_tokens
        self._special = special_ids(tokenizer)
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        if token_id in self._special:
            return ""
        token = self._token_of(token_id)
        return "" if token is None else self._utf8.decode(bytes_of(token))

    def flush(self) -> str:
        return self._utf8.decode(b"", final=True)


class _Window:
    """For every other vocabulary: decodes the last tokens with and without the new one."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special = special_ids(tokenizer)
        self._window: list[int] = []
        self._known = 0

    def push(self, token_id: int) -> str:
        if token_id in self._special:
            return ""
        self._window.append(token_id)
        new = len(self._window) - self._known
        if new < _LONGEST_WINDOW and self._decode(self._window).endswith(_REPLACEMENT):
            return ""
        return self.flush()

    def flush(self) -> str:
        known, whole = self._decode(self._window[: self._known]), self._decode(self._window)
        self._window = self._window[self._known :]
        self._known = len(self._window)
        return whole[len(known) :]

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _decoder_for(tokenizer: Any) -> _Decoder:
    return _ByteLevel(tokenizer) if is_byte_level(tokenizer) else _Window(tokenizer)
