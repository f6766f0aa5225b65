"""One generation's life: session and request into the log, the sealed command to the entry node, tokens
back.

Knows nothing of HTTP or of OpenAI's shapes. Whatever way it ends, the ring is told to stop unless it said
itself that it is done, and the session's events are complete: the entry's report ends the request, or,
when no command ever left, this relay does.
"""

import asyncio
import contextlib
import secrets
import time
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import msgspec
import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from events import moves, session
from events.envelope import Cause
from services.dispatch import send
from services.gateway.answer import Ended, Piece, Wish
from services.gateway.checkout import Standing
from services.gateway.flowing import until_flowing
from services.gateway.logprobs import Spelt
from services.gateway.problems import of_code
from services.gateway.refusals import (
    BudgetUsedUp,
    Deadline,
    GatewayStopping,
    GenerationCancelled,
    Problem,
    ShardLost,
    StreamNotStarted,
    TokensLost,
)
from services.gateway.request_id import new_ulid
from services.gateway.routing import Route
from services.gateway.state import Gateway, now_ms
from services.gateway.transcripts import terms_of
from services.handle import Handled, handle
from services.log import LogUnavailable
from services.receipts.check import About, Checked, checked, owed
from shard_runtime import messages, sealing
from shard_runtime.receipts import Terms

log = structlog.get_logger("gateway")

KEEP_ALIVE_S = 10.0
LOOK_S = 0.5
"""How often silence on the line is examined: is the ring still alive, is there time left."""
REPORT_GRACE_S = 5.0
"""How long past its deadline the entry may still say how a generation ended."""
EPOCH_WITHIN_S = 5.0
"""How soon the log must show an epoch that a ring spoke of."""
STOPPING_GRACE_S = 5.0
"""How long a running generation may go on once the gateway was asked to stop."""

_tokens = msgspec.json.Decoder(messages.Tokens)


@dataclass
class Relay:
    """Use: `await start()`, then iterate `pieces()` to its end, then read `ended`; `close()` in any case."""

    here: Gateway
    route: Route
    wish: Wish
    standing: Standing
    correlation_id: str
    request_id: str = field(default_factory=new_ulid)
    nonce: str = field(default_factory=lambda: secrets.token_hex(32))
    ended: Ended | None = None
    first_token_at: float = 0.0
    """On the monotonic clock, as `ended_at`."""
    ended_at: float = 0.0
    created_unix_s: int = field(default_factory=lambda: int(time.time()))
    _started_at: float = field(default_factory=time.monotonic)
    _queue: "asyncio.Queue[messages.Tokens]" = field(default_factory=asyncio.Queue)
    _subscription: Subscription | None = None
    _commanded: bool = False
    _next_index: int = 0
    ids: list[int] = field(default_factory=list)
    """The completion's tokens so far."""
    terms: Terms | None = None
    """What the nodes' receipts are about; None: nobody pays."""
    _moving_to: int = 0
    """The epoch at which the ring last said that the request goes on."""
    _deadline_unix_ms: int = 0
    _stopping_since: float | None = None
    _unspelled: deque[messages.TokenLogprob] = field(default_factory=deque)
    session_id: str = field(init=False)

    def __post_init__(self) -> None:
        self.session_id = self.standing.session_id or new_ulid()

    async def start(self) -> None:
        """Returns when the command is on the entry's queue. Raises Rejected, Problem, LogUnavailable."""
        here, route = self.here, self.route
        at_unix_ms = now_ms()
        self._deadline_unix_ms = at_unix_ms + round(here.settings.request_deadline_s * 1000)
        if self.standing.session_id is None:
            opened = session.Opened(
                route.pool_id, self.standing.payer, route.price_wei_per_s, True, self._close_by
            )
            await self._handle("open", session.Open(opened))
        started = session.RequestStarted(
            self.request_id,
            route.epoch,
            route.entry_node_id,
            str(self.wish.sampling.seed),
            messages.commitment(self.nonce, self.wish.prompt),
            len(self.wish.prompt_ids),
            self.wish.max_tokens,
            self._deadline_unix_ms,
        )
        begun = await self._handle("start", session.StartRequest(self.standing.payer, started, at_unix_ms))
        structlog.contextvars.bind_contextvars(session_id=self.session_id, generation=self.request_id)
        if not route.is_free:
            self.terms = terms_of(begun.state, route)
            await self._await_money(begun)
        subject = messages.tokens_subject(route.entry_node_id, self.request_id)
        try:
            self._subscription = await here.client.subscribe(subject, cb=self._take)
            await send(here.client, route.entry_node_id, self._command())
        except (NatsError, OSError, TimeoutError) as away:
            await self._end_unsent()
            raise LogUnavailable("the command could not be queued") from away
        self._commanded = True

    async def _await_money(self, begun: Handled) -> None:
        """Nothing is computed before its second is paid for. Raises StreamNotStarted, LogUnavailable."""
        try:
            within_s = self.here.settings.stream_start_within_s
            await until_flowing(self.here.events, self.session_id, begun.sequence, within_s)
        except BaseException:
            await asyncio.shield(self._end_unpaid())
            raise

    async def _end_unpaid(self) -> None:
        ended = session.GenerationEnded(
            self.request_id, "error", len(self.wish.prompt_ids), 0, None, StreamNotStarted.code
        )
        try:
            await self._handle("unpaid", session.EndGeneration(ended))
        except LogUnavailable:
            log.warning("request_left_to_its_deadline", generation=self.request_id)

    @property
    def _close_by(self) -> int:
        return self._deadline_unix_ms + 60_000

    def _command(self) -> messages.Generate:
        content = messages.SealedContent(self.wish.prompt_ids, self.nonce, self.wish.stop, tuple(self.ids))
        return messages.Generate(
            command_id=f"{self.request_id}-generate-{self.route.epoch}",
            pool_id=self.route.pool_id,
            epoch=self.route.epoch,
            session_id=self.session_id,
            request_id=self.request_id,
            sealed=sealing.seal_for(self.route.seal_key, content, self.request_id),
            sampling=self.wish.sampling,
            max_tokens=self.wish.max_tokens,
            deadline_unix_ms=self._deadline_unix_ms,
            terms=self.terms,
        )

    async def _handle(self, step: str, command: session.SessionCommand) -> Handled:
        cause = Cause(f"{self.request_id}-{step}", self.correlation_id, self.request_id, now_ms())
        return await handle(self.here.events, "session", self.session_id, command, cause)

    async def _end_unsent(self) -> None:
        """The entry may never have heard of it: tell it to forget, and end the request ourselves."""
        self._commanded = True
        await self._cancel("command_unsent")
        ended = session.GenerationEnded(
            self.request_id, "error", len(self.wish.prompt_ids), 0, None, "command_unsent"
        )
        try:
            await self._handle("unsent", session.EndGeneration(ended))
        except LogUnavailable:
            log.warning("request_left_to_its_deadline", generation=self.request_id)

    async def _take(self, message: Msg) -> None:
        try:
            tokens = _tokens.decode(message.data)
        except msgspec.DecodeError as broken:
            log.error("tokens_dropped", subject=message.subject, why=str(broken))
            return
        if tokens.request_id != self.request_id:
            return
        if (tokens.finish_reason is not None or tokens.moved_to is not None) and message.reply:
            await message.respond(b"ok")
        self._queue.put_nowait(tokens)

    async def pieces(self, keep_alive_s: float = KEEP_ALIVE_S) -> AsyncGenerator[Piece | None, None]:
        """What is new as it comes; None when there was none for `keep_alive_s`. Raises Problem when the ring
        fails.

        The end of the iteration means that the generation ended well, and how stands in `ended`.
        """
        metrics, model = self.here.metrics, self.route.name
        quiet_since = last_token_at = time.monotonic()
        while self.ended is None:
            self._check_stopping()
            try:
                async with asyncio.timeout(LOOK_S):
                    tokens = await self._queue.get()
            except TimeoutError:
                self._examine_silence()
                if time.monotonic() - quiet_since >= keep_alive_s:
                    quiet_since = time.monotonic()
                    yield None
                continue
            fresh = self._in_order(tokens)
            if tokens.moved_to is not None and tokens.epoch == self.route.epoch:
                await self._resume(tokens.moved_to)
            if fresh and tokens.ids:
                now = time.monotonic()
                if self._next_index == len(tokens.ids):
                    self.first_token_at = now
                    metrics.first_token_s.labels(model).observe(now - self._started_at)
                else:
                    metrics.inter_token_s.labels(model).observe((now - last_token_at) / len(tokens.ids))
                last_token_at = now
                metrics.completion_tokens.labels(model).inc(len(tokens.ids))
            piece = Piece(tokens.text, self._spelt(tokens)) if fresh else Piece("")
            if piece.text or piece.tokens:
                quiet_since = time.monotonic()
                yield piece
            if tokens.finish_reason == "cancelled" and not self.route.is_free:
                await self._check_budget()
            if tokens.finish_reason is not None:
                self._finish(tokens, await self._signed(tokens))

    def _in_order(self, tokens: messages.Tokens) -> bool:
        """Whether these tokens come next; a repetition is not new. Raises TokensLost at a hole."""
        if tokens.index > self._next_index:
            raise TokensLost(f"Token {self._next_index} never came; the next one was {tokens.index}.")
        if tokens.index < self._next_index:
            return False
        self._next_index += len(tokens.ids)
        self.ids += tokens.ids
        return True

    async def _resume(self, epoch: int) -> None:
        """The ring of a later epoch goes on after the tokens so far. Raises ShardLost, LogUnavailable,
        Rejected.
        """
        self._moving_to = epoch
        self.route = route = await self._route_at(epoch)
        resumed = moves.RequestResumed(self.request_id, route.epoch, route.entry_node_id, len(self.ids))
        moved = await self._handle(f"resume-{route.epoch}", moves.ResumeRequest(resumed))
        self.terms = terms_of(moved.state, route)
        subject = messages.tokens_subject(route.entry_node_id, self.request_id)
        try:
            before = self._subscription
            self._subscription = await self.here.client.subscribe(subject, cb=self._take)
            if before is not None:
                await before.unsubscribe()
            await send(self.here.client, route.entry_node_id, self._command())
        except (NatsError, OSError, TimeoutError) as away:
            raise LogUnavailable("the command could not be queued") from away
        log.info("resumed", epoch=route.epoch, entry_node_id=route.entry_node_id, tokens=len(self.ids))

    async def _route_at(self, epoch: int) -> Route:
        """The pool's ring once it is at `epoch` or later. Raises ShardLost."""
        deadline = time.monotonic() + EPOCH_WITHIN_S
        while (route := await self.here.routing.of_pool(self.route.pool_id)).epoch < epoch:
            if time.monotonic() > deadline:
                raise ShardLost(f"Epoch {epoch} does not serve.")
            await asyncio.sleep(0.05)
        return route

    def _spelt(self, tokens: messages.Tokens) -> tuple[Spelt, ...]:
        """Log-probabilities wait here until their token is shown. Raises TokensLost."""
        self._unspelled.extend(tokens.logprobs)
        if len(tokens.spelled) > len(self._unspelled):
            raise TokensLost("Tokens came without their log-probabilities.")
        spelt = [Spelt(spelled, self._unspelled.popleft()) for spelled in tokens.spelled]
        return tuple(one for one in spelt if one.spelled)

    async def _check_budget(self) -> None:
        """Raises BudgetUsedUp when that is why the network cancelled."""
        history = await self.here.events.history("session", self.session_id)
        state = session.session.fold(item.event for item in history.recorded)
        if isinstance(state, session.OpenSession) and state.closing == "budget":
            self._commanded = False
            raise BudgetUsedUp(headers={"x-should-retry": "false"})

    async def _signed(self, tokens: messages.Tokens) -> Checked | None:
        if self.terms is None:
            return None
        route = self.route
        about = About(self.terms, self.session_id, self.request_id, route.epoch, route.members)
        due = owed(tokens.finish_reason or "error", tokens.completion_tokens)
        told = (about, tokens.receipts, tokens.usage, due)
        signed = await asyncio.to_thread(checked, *told)
        for outcome, nodes in (("kept", signed.receipts), ("missing", signed.missing)):
            self.here.metrics.receipts.labels(route.name, outcome).inc(len(nodes))
        return signed

    def _finish(self, tokens: messages.Tokens, signed: Checked | None) -> None:
        self._commanded = False
        self.ended_at = time.monotonic()
        self.first_token_at = self.first_token_at or self.ended_at
        match tokens.finish_reason:
            case "error":
                raise of_code(tokens.error_code or "generation_failed")
            case "cancelled":
                raise GenerationCancelled
            case None:
                raise AssertionError("not the last message")
            case reason:
                if tokens.completion_tokens > self._next_index:
                    raise TokensLost(f"{tokens.completion_tokens} tokens were made, {self._next_index} came.")
                self.ended = Ended(
                    reason,
                    tokens.prompt_tokens,
                    tokens.completion_tokens,
                    tokens.hops,
                    tokens.prefill_ms,
                    tokens.decode_ms,
                    signed,
                )

    def _examine_silence(self) -> None:
        """Raises ShardLost or Deadline."""
        lost = self.here.heartbeats.silent(self.route.node_ids)
        if lost is not None:
            raise ShardLost(f"Node {lost} of the ring has not been heard for too long.")
        if now_ms() > self._deadline_unix_ms + REPORT_GRACE_S * 1000:
            raise Deadline

    def _check_stopping(self) -> None:
        if self.here.stopping.is_set():
            self._stopping_since = self._stopping_since or time.monotonic()
            if time.monotonic() - self._stopping_since > STOPPING_GRACE_S:
                raise GatewayStopping

    async def close(self, reason: str) -> None:
        """Stop listening; stop the ring too unless it said that it is done. Safe to call twice."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            try:
                await subscription.unsubscribe()
            except NatsError:
                log.warning("unsubscribe_failed", generation=self.request_id)
        await self._cancel(reason)

    async def _cancel(self, reason: str) -> None:
        if not self._commanded:
            return
        self._commanded = False
        route = self.route
        if self._moving_to > route.epoch:
            with contextlib.suppress(Problem, LogUnavailable):
                route = await self._route_at(self._moving_to)
        command = messages.Cancel(
            f"{self.request_id}-cancel", route.pool_id, route.epoch, self.request_id, reason
        )
        try:
            await send(self.here.client, route.entry_node_id, command)
            log.info("cancelled", reason=reason)
        except (NatsError, OSError, TimeoutError) as away:
            log.warning("cancel_unsent", why=repr(away))


def outcome_of(failure: BaseException | None, relay: Relay) -> str:
    """The metric's label: a finish reason, a code, or "disconnected"."""
    if isinstance(failure, Problem):
        return failure.code
    if failure is not None:
        return str(getattr(failure, "code", "disconnected"))
    return relay.ended.finish_reason if relay.ended is not None else "disconnected"
