"""Log-probabilities in OpenAI's two shapes: of chat completions, and of legacy completions; pure.

Knows nothing of how they were computed. Source: OpenAI's API description 2.3.0.
"""

import codecs
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from shard_runtime.messages import TokenLogprob


@dataclass(frozen=True)
class Spelt:
    """One token as far as the text shows it: `spelled` are its bytes there, maybe part of a character."""

    spelled: bytes
    said: TokenLogprob


def written(spelled: bytes) -> str:
    """A token's bytes as text; those that are no whole characters as OpenAI writes them: \\xe2\\x80."""
    try:
        return spelled.decode()
    except UnicodeDecodeError:
        return "".join(f"\\x{byte:02x}" for byte in spelled)


def chat_logprobs(tokens: Iterable[Spelt]) -> dict[str, Any]:
    """`choices[].logprobs` of a chat completion, or of a chunk of one."""
    return {"content": [_chat_entry(token) for token in tokens], "refusal": None}


def _chat_entry(token: Spelt) -> dict[str, Any]:
    likely = [_chat_token(one.spelled, one.logprob) for one in token.said.likely]
    return {**_chat_token(token.spelled, token.said.logprob), "top_logprobs": likely}


def _chat_token(spelled: bytes, logprob: float) -> dict[str, Any]:
    return {"token": written(spelled), "logprob": logprob, "bytes": list(spelled)}


@dataclass
class TextLogprobs:
    """`choices[].logprobs` of legacy completions; `text_offset` goes on from one call to the next."""

    _utf8: Any = field(default_factory=lambda: codecs.getincrementaldecoder("utf-8")(errors="replace"))
    _offset: int = 0

    def of(self, tokens: Iterable[Spelt]) -> dict[str, Any]:
        """`top_logprobs` of a token are the likely ones asked for and the token itself."""
        shown: dict[str, list[Any]] = {
            "tokens": [],
            "token_logprobs": [],
            "top_logprobs": [],
            "text_offset": [],
        }
        for token in tokens:
            name = _text_name(token.spelled)
            likely = {_text_name(token.spelled): token.said.logprob}
            for one in reversed(token.said.likely):
                likely[_text_name(one.spelled)] = one.logprob
            shown["tokens"].append(name)
            shown["token_logprobs"].append(token.said.logprob)
            shown["top_logprobs"].append(dict(sorted(likely.items(), key=lambda item: -item[1])))
            shown["text_offset"].append(self._offset)
            self._offset += len(self._utf8.decode(token.spelled))
        return dict(shown)


def _text_name(spelled: bytes) -> str:
    try:
        return spelled.decode()
    except UnicodeDecodeError:
        return f"bytes:{written(spelled)}"
