"""What a client saw of one request, gathered from `Tokens` messages; knows nothing of NATS or of workers."""

import asyncio
import time
from dataclasses import dataclass, field

from shard_runtime.messages import FinishReason, HopTiming, TokenLogprob, Tokens
from shard_runtime.receipts import NodeReceipts, Usage


@dataclass
class Outcome:
    """What a client saw of one request. `arrivals` are (monotonic seconds, token count) of each message."""

    request_id: str
    ids: list[int] = field(default_factory=list)
    text: str = ""
    finish_reason: FinishReason | None = None
    error_code: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    hops: tuple[HopTiming, ...] = ()
    receipts: tuple[NodeReceipts, ...] = ()
    usage: Usage | None = None
    logprobs: list[TokenLogprob] = field(default_factory=list)
    spelled: list[bytes] = field(default_factory=list)
    asked_s: float = 0.0
    nonce: str = ""
    arrivals: list[tuple[float, int]] = field(default_factory=list)
    last_messages: int = 0
    """How often the end was said."""
    faults: list[str] = field(default_factory=list)
    """What broke the promise of `Tokens`: each number once, in order, nothing after the end."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    moved_to: list[int] = field(default_factory=list)
    """Epochs at which the request was to go on, as its entries said."""

    def hear(self, tokens: Tokens) -> None:
        if tokens.moved_to is not None:
            if tokens.index != len(self.ids):
                self.faults.append(f"moved after {tokens.index} tokens, of which {len(self.ids)} came")
            if tokens.moved_to not in self.moved_to:
                self.moved_to.append(tokens.moved_to)
            self.changed.set()
            return
        self.last_messages += tokens.finish_reason is not None
        if self.finish_reason is not None:
            if tokens.finish_reason != self.finish_reason:
                self.faults.append(f"{tokens.finish_reason} after {self.finish_reason}")
            return
        if tokens.index != len(self.ids) and tokens.finish_reason != "error":
            self.faults.append(f"tokens from {tokens.index} on, after {len(self.ids)}")
        self.ids += tokens.ids
        self.text += tokens.text
        self.logprobs += tokens.logprobs
        self.spelled += tokens.spelled
        self.arrivals.append((time.monotonic(), len(tokens.ids)))
        if tokens.finish_reason is not None:
            self.finish_reason, self.error_code = tokens.finish_reason, tokens.error_code
            self.prompt_tokens, self.completion_tokens = tokens.prompt_tokens, tokens.completion_tokens
            self.hops, self.receipts, self.usage = tokens.hops, tokens.receipts, tokens.usage
            self.over.set()
        self.changed.set()

    async def tokens(self, count: int, deadline_s: float = 30.0) -> None:
        """Wait until `count` tokens have come."""
        async with asyncio.timeout(deadline_s):
            while len(self.ids) < count and self.finish_reason is None:
                self.changed.clear()
                await self.changed.wait()
