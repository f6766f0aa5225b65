"""The OpenAI-compatible routes: models, and chat completions as one answer or as a stream of chunks.

Knows shapes and HTTP; what a generation is stands in `relay`. Source: OpenAI's API description 2.3.0.
"""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import structlog
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from services.credentials import Principal
from services.gateway import chat, sse
from services.gateway.auth import Caller, Here, Payer
from services.gateway.gone import unless_gone
from services.gateway.problems import envelope
from services.gateway.refusals import GatewayStopping, InternalError, ModelNotFound, PoolUnavailable, Problem
from services.gateway.relay import Ended, Relay, Wish, outcome_of
from services.gateway.request_id import current_request_id
from services.gateway.routing import Route
from services.gateway.sessions import session_of_pool
from services.gateway.state import Gateway

router = APIRouter(prefix="/v1", tags=["OpenAI"])
log = structlog.get_logger("gateway")
SESSION_HEADER = "x-computepool-session"


@router.get("/models", summary="Models that are served now")
async def models(here: Here, _: Caller) -> dict[str, Any]:
    return {"object": "list", "data": [_model(row) async for row in _serving(here)]}


@router.get("/models/{model_id:path}", summary="One model")
async def model(model_id: str, here: Here, _: Caller) -> dict[str, Any]:
    async for row in _serving(here):
        if row["name"] == model_id:
            return _model(row)
    raise ModelNotFound(f"No pool serves the model {model_id!r}.", param="model")


async def _serving(here: Gateway) -> AsyncIterator[dict[str, Any]]:
    after: str | None = None
    while True:
        page = await here.rows.pools(after, 100)
        for row in page.items:
            if row["status"] == "active":
                yield row
        if not page.has_more:
            return
        after = page.items[-1]["id"]


def _model(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": row["name"],
        "object": "model",
        "created": int(row["proposed_unix_ms"]) // 1000,
        "owned_by": "computepool",
    }


@router.post(
    "/chat/completions",
    summary="A chat completion, as one answer or (stream: true) as server-sent events",
    response_model=None,
)
async def chat_completions(body: chat.ChatRequest, request: Request, here: Here, who: Payer) -> Response:
    relay = await _relay(body, request.headers.get(SESSION_HEADER), here, who)
    live = Live(here, relay)
    try:
        await live.start(request)
        if body.stream:
            frames = await _frames(live, request, body.wants_usage)
            return sse.EventStream(frames, live.close, _headers(relay))
        text = await unless_gone(request.receive, live.whole_text())
    except BaseException as failure:
        live.failure = failure
        await live.close()
        raise
    await live.close()
    assert relay.ended is not None
    timings = msgspec.json.encode(relay.ended.hops).decode()
    headers = {**_headers(relay), "x-computepool-timings": timings}
    return JSONResponse(_completion(relay, text, relay.ended), headers=headers)


async def _relay(body: chat.ChatRequest, session_id: str | None, here: Gateway, who: Principal) -> Relay:
    """Everything that can be refused before anything is written to the log."""
    if here.stopping.is_set():
        raise GatewayStopping
    chat.refuse_unserved(body)
    messages, stop = chat.plain_messages(body), chat.stops(body)
    route = await here.routing.of_model(body.model)
    if session_id is not None:
        await session_of_pool(here, who, session_id, route.pool_id)
    _check_ring(here, route)
    prompt_ids = await here.templates.token_ids(route.model, messages)
    max_tokens = chat.token_budget(len(prompt_ids), body.limit, route.context_length)
    wish = Wish(chat.committed_text(messages), prompt_ids, max_tokens, chat.sampling(body), stop)
    return Relay(here, route, wish, who.payer, session_id, current_request_id())


def _check_ring(here: Gateway, route: Route) -> None:
    silent = here.heartbeats.silent(route.node_ids)
    if silent is not None:
        raise PoolUnavailable(f"Node {silent} of {route.name} is not heard.")


class Live:
    """A relay with its slot. `close` gives both back, once, and counts how it ended."""

    def __init__(self, here: Gateway, relay: Relay) -> None:
        self.here, self.relay = here, relay
        self.pieces = relay.pieces()
        self.failure: BaseException | None = None
        self._slot = self._counted = False

    async def start(self, request: Request) -> None:
        """A slot, then the command on its way. Raises TooManyRequests, ClientGone and what the relay
        raises.
        """
        self.here.metrics.in_flight.inc()
        self._counted = True
        route = self.relay.route
        await unless_gone(request.receive, self.here.slots.acquire(route.pool_id, route.kv_slots))
        self._slot = True
        await self.relay.start()

    async def whole_text(self) -> str:
        return "".join([piece async for piece in self.pieces if piece is not None])

    async def next(self) -> tuple[bool, str | None]:
        """(whether there was one, the piece)."""
        try:
            return True, await anext(self.pieces)
        except StopAsyncIteration:
            return False, None

    async def close(self) -> None:
        if not self._counted:
            return
        self._counted = False
        try:
            await self.pieces.aclose()
            outcome = outcome_of(self.failure, self.relay)
            await self.relay.close(outcome)
        finally:
            self.here.metrics.in_flight.dec()
            if self._slot:
                self.here.slots.release(self.relay.route.pool_id)
        self.here.metrics.requests.labels(self.relay.route.name, outcome).inc()


async def _frames(live: Live, request: Request, wants_usage: bool) -> AsyncIterator[bytes]:
    """Waits for the first piece, so that a ring that fails before it is answered with an HTTP status.

    When nothing came for the keep-alive time, the stream begins, and a later failure is told inside it.
    """
    found, first = await unless_gone(request.receive, live.next())
    return _stream(live, found, first, wants_usage)


async def _stream(live: Live, found: bool, first: str | None, wants_usage: bool) -> AsyncIterator[bytes]:
    chunk = Chunks(live.relay, wants_usage)
    yield chunk.delta({"role": "assistant", "content": ""})
    try:
        piece = first
        while found:
            yield sse.KEEP_ALIVE if piece is None else chunk.delta({"content": piece})
            found, piece = await live.next()
    except Exception as failure:
        live.failure = failure
        if not isinstance(failure, Problem):
            log.error("stream_failed", exc_info=failure)
        shown = failure if isinstance(failure, Problem) else InternalError()
        yield sse.event(msgspec.json.encode(envelope(shown)))
        return
    ended = live.relay.ended
    assert ended is not None
    yield chunk.delta({}, ended.finish_reason)
    if wants_usage:
        yield chunk.usage(ended)
    yield b": computepool-timings " + msgspec.json.encode(ended.hops) + b"\n\n"
    yield b"data: [DONE]\n\n"


class Chunks:
    """Writes chat.completion.chunk events; all of one completion share their id."""

    def __init__(self, relay: Relay, wants_usage: bool) -> None:
        self._head = {**_head(relay), "object": "chat.completion.chunk"}
        self._rest = {"usage": None} if wants_usage else {}

    def delta(self, delta: dict[str, str], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return sse.event(msgspec.json.encode({**self._head, "choices": [choice], **self._rest}))

    def usage(self, ended: Ended) -> bytes:
        return sse.event(msgspec.json.encode({**self._head, "choices": [], "usage": _usage(ended)}))


def _head(relay: Relay) -> dict[str, Any]:
    return {"id": f"chatcmpl-{relay.request_id}", "created": relay.created_unix_s, "model": relay.route.name}


def _completion(relay: Relay, text: str, ended: Ended) -> dict[str, Any]:
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": ended.finish_reason,
    }
    return {**_head(relay), "object": "chat.completion", "choices": [choice], "usage": _usage(ended)}


def _usage(ended: Ended) -> dict[str, int]:
    return {
        "prompt_tokens": ended.prompt_tokens,
        "completion_tokens": ended.completion_tokens,
        "total_tokens": ended.prompt_tokens + ended.completion_tokens,
    }


def _headers(relay: Relay) -> dict[str, str]:
    """What lets the payer find the request in the log and open its commitments."""
    return {
        SESSION_HEADER: relay.session_id or "",
        "x-computepool-request": relay.request_id,
        "x-computepool-nonce": relay.nonce,
        "x-computepool-epoch": str(relay.route.epoch),
    }
