"""The OpenAI-compatible routes: models, and chat completions as one answer or as a stream of chunks.

Knows shapes and HTTP; what a generation is stands in `relay`. Source: OpenAI's API description 2.3.0.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import structlog
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from services.credentials import Principal
from services.gateway import asked, chat, sse, transcripts
from services.gateway.answer import Ended, Piece, Wish
from services.gateway.auth import Buyer, Caller, Here
from services.gateway.checkout import admit, standing_of
from services.gateway.gone import unless_gone
from services.gateway.live import Live, ring_of
from services.gateway.logprobs import Spelt, chat_logprobs
from services.gateway.problems import envelope
from services.gateway.refusals import InternalError, ModelNotFound, Problem
from services.gateway.relay import Relay
from services.gateway.request_id import current_request_id
from services.gateway.state import Gateway
from services.gateway.till import SESSION_HEADER
from services.gateway.timings import HEADER

router = APIRouter(prefix="/v1", tags=["OpenAI"])
log = structlog.get_logger("gateway")


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
async def chat_completions(body: chat.ChatRequest, request: Request, here: Here, who: Buyer) -> Response:
    relay = await _relay(body, request, here, who)
    live = Live(here, relay)
    try:
        await live.start(request)
        if body.stream:
            frames = await _frames(live, request, body)
            return sse.EventStream(frames, live.close, headers_of([relay]))
        pieces = await unless_gone(request.receive, live.whole())
    except BaseException as failure:
        live.failure = failure
        await live.close()
        raise
    await live.close()
    headers = {**headers_of([relay]), HEADER: live.timings.header()}
    answer = _completion(relay, pieces, bool(body.logprobs))
    more = {"computepool": {"transcript": transcripts.written(relay)}} if body.transcript else {}
    return JSONResponse({**answer, **more}, headers=headers)


async def _relay(body: chat.ChatRequest, request: Request, here: Gateway, who: Principal | None) -> Relay:
    """Everything that can be refused before anything is written to the log."""
    await admit(here, request, who, body.model)
    chat.refuse_unserved(body)
    messages, stop = chat.plain_messages(body), asked.stop_strings(body.stop)
    session_id = session_asked(request, who)
    route = await ring_of(here, who, body.model, session_id)
    transcripts.refuse_unpaid(body.transcript, route)
    prompt_ids = await here.templates.token_ids(route.model, messages)
    max_tokens = asked.token_budget(
        len(prompt_ids),
        body.limit,
        route.context_length,
        prompt_name="messages",
        limit_name=body.limit_name,
    )
    sampling = asked.sampling_of(body.seed, body.temperature, body.top_p, body.top_k, body.likely)
    wish = Wish(chat.committed_text(messages), prompt_ids, max_tokens, sampling, stop)
    standing = await standing_of(here, request, route, who, session_id)
    return Relay(here, route, wish, standing, current_request_id())


def session_asked(request: Request, who: Principal | None) -> str | None:
    """The session that a request belongs to: its key's own, else the one that its header names."""
    return who.id if who is not None and who.kind == "session" else request.headers.get(SESSION_HEADER)


async def _frames(live: Live, request: Request, body: chat.ChatRequest) -> AsyncIterator[bytes]:
    """Waits for the first piece, so that a ring that fails before it is answered with an HTTP status.

    When nothing came for the keep-alive time, the stream begins, and a later failure is told inside it.
    """
    found, first = await unless_gone(request.receive, live.next())
    chunk = Chunks(live.relay, body.wants_usage, bool(body.logprobs))
    return _stream(live, found, first, chunk, bool(body.transcript))


async def _stream(
    live: Live, found: bool, first: Piece | None, chunk: "Chunks", wants_transcript: bool
) -> AsyncIterator[bytes]:
    yield chunk.delta({"role": "assistant", "content": ""})
    try:
        piece = first
        while found:
            yield sse.KEEP_ALIVE if piece is None else chunk.piece(piece)
            found, piece = await live.next()
    except Exception as failure:
        live.failure = failure
        yield failed_event(failure)
        return
    ended = live.relay.ended
    assert ended is not None
    ours = {"timings": live.timings.as_json()}
    if wants_transcript:
        ours["transcript"] = transcripts.written(live.relay)
    yield chunk.delta({}, ended.finish_reason, computepool=ours)
    if chunk.wants_usage:
        yield chunk.usage(ended)
    yield sse.DONE


def failed_event(failure: Exception) -> bytes:
    """How a stream that has begun tells that it failed."""
    if not isinstance(failure, Problem):
        log.error("stream_failed", exc_info=failure)
    shown = failure if isinstance(failure, Problem) else InternalError()
    return sse.event(msgspec.json.encode(envelope(shown)))


class Chunks:
    """Writes chat.completion.chunk events; all of one completion share their id."""

    def __init__(self, relay: Relay, wants_usage: bool, wants_logprobs: bool) -> None:
        self.wants_usage, self._wants_logprobs = wants_usage, wants_logprobs
        self._head = {**_head(relay), "object": "chat.completion.chunk"}
        self._rest = {"usage": None} if wants_usage else {}

    def piece(self, piece: Piece) -> bytes:
        return self.delta({"content": piece.text}, tokens=piece.tokens)

    def delta(
        self,
        delta: dict[str, str],
        finish_reason: str | None = None,
        tokens: tuple[Spelt, ...] = (),
        **more: Any,
    ) -> bytes:
        """`more` are fields of the chunk itself."""
        logprobs = chat_logprobs(tokens) if tokens else None
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return sse.event(msgspec.json.encode({**self._head, "choices": [choice], **self._rest, **more}))

    def usage(self, ended: Ended) -> bytes:
        return sse.event(msgspec.json.encode({**self._head, "choices": [], "usage": usage_of([ended])}))


def _head(relay: Relay) -> dict[str, Any]:
    return {"id": f"chatcmpl-{relay.request_id}", "created": relay.created_unix_s, "model": relay.route.name}


def _completion(relay: Relay, pieces: list[Piece], wants_logprobs: bool) -> dict[str, Any]:
    assert relay.ended is not None
    text = "".join(piece.text for piece in pieces)
    tokens = [token for piece in pieces for token in piece.tokens]
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, "refusal": None},
        "logprobs": chat_logprobs(tokens) if wants_logprobs else None,
        "finish_reason": relay.ended.finish_reason,
    }
    return {
        **_head(relay),
        "object": "chat.completion",
        "choices": [choice],
        "usage": usage_of([relay.ended]),
    }


def usage_of(ended: Sequence[Ended | None]) -> dict[str, int]:
    """Tokens of all choices together."""
    prompt = sum(one.prompt_tokens for one in ended if one is not None)
    completion = sum(one.completion_tokens for one in ended if one is not None)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def headers_of(relays: Sequence[Relay]) -> dict[str, str]:
    """What lets the payer find each choice's request in the log and open its commitments, in the choices'
    order.
    """
    sessions = dict.fromkeys(str(relay.session_id) for relay in relays)
    return {
        **relays[0].standing.headers,
        SESSION_HEADER: ", ".join(sessions),
        "x-computepool-request": ", ".join(relay.request_id for relay in relays),
        "x-computepool-nonce": ", ".join(relay.nonce for relay in relays),
        "x-computepool-epoch": str(relays[0].route.epoch),
    }
