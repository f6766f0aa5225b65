"""One request as its entry sees it: the token list and when to stop.

Knows nothing of shards, sockets or clocks.
"""

from dataclasses import dataclass, field

from shard_runtime.messages import FinishReason, Generate, SealedContent
from shard_runtime.text import IncrementalText


class RequestInvalid(Exception):
    """A request that can't begin. `code`: context_exceeded | prompt_invalid | max_tokens_invalid."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


def check(content: SealedContent, max_tokens: int, max_context: int, vocab_size: int) -> None:
    """Raises RequestInvalid."""
    given = content.prompt_ids + content.resume_ids
    if not content.prompt_ids or min(given) < 0 or max(given) >= vocab_size:
        raise RequestInvalid("prompt_invalid", f"there must be token ids, all in [0, {vocab_size})")
    if len(content.nonce) != 64 or not set(content.nonce) <= set("0123456789abcdef"):
        raise RequestInvalid("prompt_invalid", "the nonce must be 32 bytes in lower-case hex")
    if not all(content.stop):
        raise RequestInvalid("prompt_invalid", "an empty stop string would stop everything")
    if max_tokens <= len(content.resume_ids):
        raise RequestInvalid("max_tokens_invalid", f"max_tokens {max_tokens} leaves nothing to generate")
    if len(given) >= max_context:
        raise RequestInvalid("context_exceeded", f"{len(given)} tokens leave no room in {max_context}")


@dataclass
class Generation:
    """`ids` are the completion's tokens, those of an earlier epoch included; `finish_reason` ends it."""

    command: Generate
    content: SealedContent
    text: IncrementalText
    eos_ids: frozenset[int]
    max_context: int
    ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    def __post_init__(self) -> None:
        for token in self.content.resume_ids:
            self.ids.append(token)
            self.text.push(token)
        self.text.spelled()

    @property
    def position(self) -> int:
        """Where the next token will stand in the whole sequence."""
        return len(self.content.prompt_ids) + len(self.ids)

    def accept(self, token: int) -> str:
        """Take the next token; returns the text that may be shown now."""
        self.ids.append(token)
        if token in self.eos_ids:
            self.finish_reason = "stop"
            return self.text.flush()
        shown = self.text.push(token)
        if self.text.stopped:
            self.finish_reason = "stop"
        elif len(self.ids) >= self.command.max_tokens or self.position >= self.max_context:
            shown += self.text.flush()
            self.finish_reason = "stop" if self.text.stopped else "length"
        return shown
