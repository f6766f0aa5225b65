"""The entry's conversation with the outside about each request: from `Generate` to the report of its end.

Knows nothing of frames or weights: it drives a stage and speaks through a voice.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

import structlog

from shard_runtime.generation import Generation, RequestInvalid, check
from shard_runtime.handover import Opening, Parking
from shard_runtime.journal import Journal
from shard_runtime.messages import (
    RING_BROKEN,
    FinishReason,
    Generate,
    GenerationEnded,
    LikelyToken,
    SealedContent,
    TokenLogprob,
    Tokens,
    commitment,
)
from shard_runtime.picked import Picked
from shard_runtime.receipts import NodeReceipts, Usage, hash_of
from shard_runtime.sealing import SealBroken
from shard_runtime.spelling import Speller
from shard_runtime.stage import LOST, Stage
from shard_runtime.text import IncrementalText
from shard_runtime.voice import Voice, report_id

HOPS_WAIT_S = 0.25
"""How long the last message waits for the other stages' timings."""
RECEIPTS_WAIT_S = 2.0
"""As that, of a paid request, until their receipts are on their disks."""
AT_ONCE = 128
"""Tokens in one message at most; with twenty log-probabilities each that is some 200 KB."""
CANCELLED_KEPT = 4096

Open = Callable[[Generate], SealedContent]
"""Raises SealBroken."""

log = structlog.get_logger()


class _News(NamedTuple):
    """One token, the text that it let out, and when asked for: its log-probability, and what was spelled."""

    token: int
    text: str
    logprob: tuple[TokenLogprob, ...]
    spelled: tuple[bytes, ...]


@dataclass
class _Asked:
    """One request under way. `news` holds what is not yet published; None says that there is no more."""

    generation: Generation
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    news: asyncio.Queue[_News | None] = field(default_factory=asyncio.Queue)
    begun_s: float = 0.0
    first_s: float | None = None
    last_s: float = 0.0
    error_code: str | None = None
    reason: FinishReason | None = None
    moved_to: int | None = None
    stays: bool = False
    """It could not be moved, and ends where it began."""


class Answering:
    """All requests of one entry stage."""

    def __init__(
        self, stage: Stage, node_id: str, tokenizer: Any, max_context: int, open_: Open, voice: Voice,
        journal: Journal,
    ) -> None:  # fmt: skip
        self._stage, self._node_id, self._tokenizer = stage, node_id, tokenizer
        self._max_context, self._open, self._voice, self._journal = max_context, open_, voice, journal
        self._speller = Speller(tokenizer)
        self._asked: dict[str, _Asked] = {}
        self._cancelled: OrderedDict[str, None] = OrderedDict()
        self._to_epoch: int | None = None
        self._moves = False

    @property
    def active(self) -> int:
        return len(self._asked)

    async def generate(self, command: Generate) -> None:
        """Run one request to its end; returns when its `GenerationEnded` is stored, as a repeat does."""
        known = self._asked.get(command.request_id)
        if known is not None:
            await known.ended.wait()
            return
        if self._to_epoch is not None:
            await say_moved(self._voice, command, self._to_epoch)
            return
        try:
            asked = self._begin(command)
        except (SealBroken, RequestInvalid) as invalid:
            await end_early(self._voice, self._journal, self._node_id, command, invalid.code)
            return
        publishing = asyncio.create_task(self._publish(command, asked))
        try:
            await publishing
        finally:
            self._asked.pop(command.request_id, None)
            asked.ended.set()

    def knows(self, command: Generate) -> bool:
        """Is this request under way?"""
        return command.request_id in self._asked

    def drain(self, to_epoch: int, *, moves: bool) -> None:
        """Take no new request; hand over running ones at their next token (`moves`), or let them end."""
        self._to_epoch, self._moves = to_epoch, moves

    def cancel(self, request_id: str, reason: str) -> None:
        """End a request, or keep a later `Generate` of it from beginning.

        To the client it is "cancelled", unless the orchestrator cancels because a node of the ring is gone.
        """
        if reason in RING_BROKEN and request_id in self._asked:
            self._finish(request_id, "error", LOST)
            return
        self._cancelled[request_id] = None
        while len(self._cancelled) > CANCELLED_KEPT:
            self._cancelled.popitem(last=False)
        asked = self._asked.get(request_id)
        if asked is None or asked.moved_to is not None:
            self._stage.end(request_id)  # a stage may hold KV of it that moved, or is to move
            self._stage.timings.forget(request_id)
        self._finish(request_id, "cancelled", None)

    def fail_all(self, code: str) -> None:
        for request_id in list(self._asked):
            self._finish(request_id, "error", code)

    def tick(self) -> None:
        """End what is past its deadline."""
        now_ms = time.time_ns() // 1_000_000
        for request_id, asked in list(self._asked.items()):
            if now_ms > asked.generation.command.deadline_unix_ms:
                self._finish(request_id, "error", "deadline")

    def on_token(self, request_id: str, picked: Picked) -> None:
        token = picked.token
        asked = self._asked.get(request_id)
        if asked is None or asked.reason is not None:
            return
        generation = asked.generation
        position = generation.position
        shown = generation.accept(token)
        if generation.finish_reason is None and self._moves and not asked.stays:
            self._hand_over(request_id, asked, position, token)
        elif generation.finish_reason is None:
            self._stage.advance(request_id, position, token)
        asked.last_s = time.monotonic()
        if asked.first_s is None:
            asked.first_s = asked.last_s
        asked.news.put_nowait(_News(token, shown, self._weighed(picked), generation.text.spelled()))
        if generation.finish_reason is not None:
            self._finish(request_id, generation.finish_reason, None)

    def on_fail(self, request_id: str, code: str) -> None:
        self._finish(request_id, "error", code)

    def _weighed(self, picked: Picked) -> tuple[TokenLogprob, ...]:
        """() unless log-probabilities were asked for."""
        if picked.logprob is None:
            return ()
        likely = (LikelyToken(number, one, self._speller.spell(number)) for number, one in picked.likely)
        return (TokenLogprob(picked.logprob, tuple(likely)),)

    def _hand_over(self, request_id: str, asked: _Asked, position: int, token: int) -> None:
        """Nothing of the request is in flight: `position` tokens are in every stage's KV, `token` in none."""
        to_epoch = self._to_epoch
        assert to_epoch is not None

        def settled(moved: bool) -> None:
            if asked.reason is not None:
                return
            if moved:
                asked.moved_to = to_epoch
                asked.news.put_nowait(None)
            else:
                asked.stays = True
                self._stage.advance(request_id, position, token)

        parking = Parking(asked.generation.command.session_id, position, to_epoch)
        self._stage.handover.park(request_id, parking, settled)

    def _begin(self, command: Generate) -> _Asked:
        content = self._open(command)
        check(content, command.max_tokens, self._max_context, self._stage.slice.vocab_size)
        speller = None if command.sampling.logprobs is None else self._speller
        text = IncrementalText(self._tokenizer, content.stop, speller)
        eos_ids = self._stage.slice.eos_ids
        generation = Generation(command, content, text, eos_ids, self._max_context)
        asked = self._asked[command.request_id] = _Asked(generation, begun_s=time.monotonic())
        if command.request_id in self._cancelled:
            asked.reason = "cancelled"
            asked.news.put_nowait(None)
        elif time.time_ns() // 1_000_000 > command.deadline_unix_ms:
            asked.reason, asked.error_code = "error", "deadline"
            asked.news.put_nowait(None)
            if content.resume_ids:
                self._stage.end(command.request_id)  # its KV is here already
        else:
            given = content.prompt_ids + content.resume_ids
            begin = self._stage.resume if content.resume_ids else self._stage.begin
            begin(command.request_id, Opening(command.sampling, terms=command.terms), given)
        return asked

    def _finish(self, request_id: str, reason: FinishReason, error_code: str | None) -> None:
        asked = self._asked.get(request_id)
        if asked is None or asked.reason is not None or asked.moved_to is not None:
            return
        asked.reason, asked.error_code = reason, error_code
        self._stage.end(request_id)
        asked.news.put_nowait(None)

    async def _publish(self, command: Generate, asked: _Asked) -> None:
        """Tokens as they come, the end, then the report; nothing is said before the start is on disk."""
        await asyncio.to_thread(self._journal.write, command.command_id)
        generation, index = asked.generation, len(asked.generation.content.resume_ids)
        over = False
        while not over:
            news = [await asked.news.get()]
            while not asked.news.empty() and len(news) < AT_ONCE:
                news.append(asked.news.get_nowait())
            fresh = [item for item in news if item is not None]
            over = len(fresh) < len(news)
            if fresh:
                await self._voice.tokens(_tokens(command, index, fresh))
                index += len(fresh)
        if asked.moved_to is not None:
            self._stage.timings.forget(command.request_id)
            await say_moved(self._voice, command, asked.moved_to, index)
            return
        rest = generation.text.flush() if generation.finish_reason is None else ""
        reason, error_code = asked.reason or "error", asked.error_code
        if reason == "error" and error_code is None:
            error_code = LOST
        receipts, usage = await self._others(command, generation, reason)
        prompt = len(generation.content.prompt_ids)
        first_s = asked.first_s if asked.first_s is not None else time.monotonic()
        prefill_ms = 1000 * (first_s - asked.begun_s)
        decode_ms = 1000 * max(0.0, asked.last_s - first_s)
        last = Tokens(
            command.request_id, command.epoch, index, (), rest, reason, error_code, prompt,
            len(generation.ids), self._stage.timings.hops(command.request_id), round(prefill_ms, 3),
            round(decode_ms, 3), spelled=generation.text.spelled(), receipts=receipts, usage=usage,
        )  # fmt: skip
        self._stage.timings.forget(command.request_id)
        ended = GenerationEnded(
            report_id("generation_ended", command.command_id), self._node_id, command.pool_id, command.epoch,
            command.session_id, command.request_id, reason, prompt, len(generation.ids),
            commitment(generation.content.nonce, generation.text.text), round(prefill_ms), round(decode_ms),
            error_code, receipts, usage,
        )  # fmt: skip
        await asyncio.to_thread(self._journal.write, command.command_id, ended)
        heard = await self._voice.last_tokens(last)
        await self._voice.report(ended)
        log.info(
            "generation_ended", request_id=command.request_id, session_id=command.session_id, reason=reason,
            error_code=error_code, prompt_tokens=prompt, completion_tokens=len(generation.ids), heard=heard,
        )  # fmt: skip

    async def _others(
        self, command: Generate, generation: Generation, reason: FinishReason
    ) -> tuple[tuple[NodeReceipts, ...], Usage | None]:
        """Wait for what the other stages say of a request that ended; the receipts, and this entry's account.

        When the ring is broken nobody is waited for: the request may go on elsewhere.
        """
        request_id, stage = command.request_id, self._stage
        ledger = stage.timings.ledger(request_id)
        own = NodeReceipts(self._node_id, await stage.receipting.signed(request_id, ledger))
        if reason == "error" or (reason == "cancelled" and ledger is None):
            wait_s = 0.0
        else:
            wait_s = HOPS_WAIT_S if ledger is None else RECEIPTS_WAIT_S
        deadline = time.monotonic() + wait_s
        while not stage.timings.complete(request_id) and time.monotonic() < deadline:
            await asyncio.sleep(0.002)
        if ledger is None or not own.receipts:
            return (), None
        resumed = len(generation.content.resume_ids)
        usage = Usage(
            len(generation.content.prompt_ids), len(generation.ids), resumed, ledger.hashes.first_step or 0,
            hash_of(own), "",
        )  # fmt: skip
        signed = stage.receipting.account(ledger, command.session_id, request_id, usage)
        return stage.timings.receipts(request_id, own), signed


def _tokens(command: Generate, index: int, fresh: list[_News]) -> Tokens:
    return Tokens(
        command.request_id, command.epoch, index, tuple(item.token for item in fresh),
        "".join(item.text for item in fresh),
        logprobs=tuple(chain.from_iterable(item.logprob for item in fresh)),
        spelled=tuple(chain.from_iterable(item.spelled for item in fresh)),
    )  # fmt: skip


async def say_moved(voice: Voice, command: Generate, to_epoch: int, index: int = 0) -> None:
    """The request goes on at another epoch, after `index` tokens; its end is told there."""
    heard = await voice.last_tokens(
        Tokens(command.request_id, command.epoch, index, (), "", moved_to=to_epoch)
    )
    log.info("request_moved", request_id=command.request_id, to_epoch=to_epoch, tokens=index, heard=heard)


async def end_early(voice: Voice, journal: Journal, node_id: str, command: Generate, code: str) -> None:
    """End a request that never began here: the client hears why, the report is stored, the journal knows."""
    last = Tokens(command.request_id, command.epoch, 0, (), "", "error", code)
    ended = GenerationEnded(
        report_id("generation_ended", command.command_id), node_id, command.pool_id, command.epoch,
        command.session_id, command.request_id, "error", 0, 0, "", 0, 0, code,
    )  # fmt: skip
    await asyncio.to_thread(journal.write, command.command_id, ended)
    await voice.last_tokens(last)
    await voice.report(ended)
    log.warning("generation_refused", request_id=command.request_id, session_id=command.session_id, code=code)
