"""POST /v1/completions, OpenAI's legacy route: one choice per prompt, as one answer or as a stream of chunks.

Knows shapes and HTTP; what a generation is stands in `relay`. Source: OpenAI's API description 2.3.0.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from services.credentials import Principal
from services.gateway import asked, completions, sse, transcripts
from services.gateway.answer import Ended, Piece, Wish
from services.gateway.auth import Buyer, Here
from services.gateway.checkout import admit, standing_of
from services.gateway.gone import unless_gone
from services.gateway.live import Said, Several, ring_of
from services.gateway.logprobs import Spelt, TextLogprobs
from services.gateway.openai import failed_event, headers_of, session_asked, usage_of
from services.gateway.relay import Relay
from services.gateway.request_id import current_request_id
from services.gateway.state import Gateway
from services.gateway.timings import HEADER, together

router = APIRouter(prefix="/v1", tags=["OpenAI"])


@router.post(
    "/completions",
    summary="Completions of plain prompts (legacy), as one answer or (stream: true) as server-sent events",
    response_model=None,
)
async def text_completions(
    body: completions.CompletionRequest, request: Request, here: Here, who: Buyer
) -> Response:
    relays, echoes = await _relays(body, request, here, who)
    several = Several(here, relays)
    choices = [Choice(number, echo, body.logprobs is not None) for number, echo in enumerate(echoes)]
    try:
        await several.start(request)
        news = several.news()
        if body.stream:
            first = await unless_gone(request.receive, anext(news))
            frames = _stream(several, first, news, choices, body.wants_usage, bool(body.transcript))
            return sse.EventStream(frames, several.close, headers_of(relays))
        await unless_gone(request.receive, _gather(news, choices))
    except BaseException as failure:
        several.failure = failure
        await several.close()
        raise
    await several.close()
    timings = together([live.timings for live in several.lives])
    answer = _completion(relays, choices)
    if body.transcript:
        answer["computepool"] = {"transcripts": [transcripts.written(one) for one in relays]}
    return JSONResponse(answer, headers={**headers_of(relays), HEADER: timings.header()})


async def _relays(
    body: completions.CompletionRequest, request: Request, here: Gateway, who: Principal | None
) -> tuple[list[Relay], list[str]]:
    """One per prompt, with the text to echo; everything that can be refused before the log is written to."""
    await admit(here, request, who, body.model)
    completions.refuse_unserved(body)
    prompts, stop = completions.prompts(body), asked.stop_strings(body.stop)
    session_id = session_asked(request, who)
    route = await ring_of(here, who, body.model, session_id)
    transcripts.refuse_unpaid(body.transcript, route)
    wishes: list[Wish] = []
    echoes: list[str] = []
    for prompt in prompts:
        ids = await here.templates.text_ids(route.model, prompt) if isinstance(prompt, str) else prompt
        completions.check_ids(ids, here.templates.vocab_size(route.model))
        max_tokens = asked.token_budget(
            len(ids), body.limit, route.context_length, prompt_name="prompt", limit_name="max_tokens"
        )
        sampling = asked.sampling_of(body.seed, body.temperature, body.top_p, body.top_k, body.logprobs)
        wishes.append(Wish(completions.committed_text(prompt), ids, max_tokens, sampling, stop))
        if not body.echo:
            echoes.append("")
        elif isinstance(prompt, str):
            echoes.append(prompt)
        else:
            echoes.append(await here.templates.text_of(route.model, ids))
    standing = await standing_of(here, request, route, who, session_id)
    return [Relay(here, route, wish, standing, current_request_id()) for wish in wishes], echoes


class Choice:
    """One choice as it grows: each piece in OpenAI's shape, and the whole at the end."""

    def __init__(self, number: int, echo: str, wants_logprobs: bool) -> None:
        self.number, self.echo = number, echo
        self.ended: Ended | None = None
        self._text = [echo]
        self._logprobs = TextLogprobs() if wants_logprobs else None
        self._tokens: list[Spelt] = []

    def take(self, piece: Piece) -> None:
        self._text.append(piece.text)
        self._tokens += piece.tokens

    def whole(self) -> dict[str, Any]:
        assert self.ended is not None
        return self._shape("".join(self._text), self._tokens, self.ended.finish_reason)

    def chunk(self, piece: Piece, finish_reason: str | None = None) -> dict[str, Any]:
        return self._shape(piece.text, piece.tokens, finish_reason)

    def _shape(self, text: str, tokens: Sequence[Spelt], finish_reason: str | None) -> dict[str, Any]:
        logprobs = None if self._logprobs is None else self._logprobs.of(tokens)
        return {"text": text, "index": self.number, "logprobs": logprobs, "finish_reason": finish_reason}


async def _gather(news: AsyncIterator[Said], choices: Sequence[Choice]) -> None:
    async for number, said in news:
        if isinstance(said, Ended):
            choices[number].ended = said
        elif said is not None:
            choices[number].take(said)


async def _stream(
    several: Several,
    first: Said,
    news: AsyncIterator[Said],
    choices: Sequence[Choice],
    wants_usage: bool,
    wants_transcript: bool,
) -> AsyncIterator[bytes]:
    """The choices' chunks mixed as they come; the chunk that ends a choice has its timings and transcript."""
    relays = [live.relay for live in several.lives]
    head, rest = _head(relays), {"usage": None} if wants_usage else {}

    def event(choice: dict[str, Any], **more: Any) -> bytes:
        return sse.event(msgspec.json.encode({**head, "choices": [choice], **rest, **more}))

    for choice in choices:
        if choice.echo:
            yield event(choice.chunk(Piece(choice.echo)))
    said: Said | None = first
    try:
        while said is not None:
            choice, what = choices[said[0]], said[1]
            if what is None:
                yield sse.KEEP_ALIVE
            elif isinstance(what, Ended):
                ours = {"timings": several.lives[said[0]].timings.as_json()}
                if wants_transcript:
                    ours["transcript"] = transcripts.written(relays[said[0]])
                yield event(choice.chunk(Piece(""), what.finish_reason), computepool=ours)
                choice.ended = what
            else:
                yield event(choice.chunk(what))
            said = await anext(news, None)
    except Exception as failure:
        several.failure = failure
        yield failed_event(failure)
        return
    if wants_usage:
        usage = usage_of([relay.ended for relay in relays])
        yield sse.event(msgspec.json.encode({**head, "choices": [], "usage": usage}))
    yield sse.DONE


def _head(relays: Sequence[Relay]) -> dict[str, Any]:
    first = relays[0]
    return {
        "id": f"cmpl-{first.request_id}",
        "object": "text_completion",
        "created": first.created_unix_s,
        "model": first.route.name,
    }


def _completion(relays: Sequence[Relay], choices: Sequence[Choice]) -> dict[str, Any]:
    usage = usage_of([relay.ended for relay in relays])
    return {**_head(relays), "choices": [choice.whole() for choice in choices], "usage": usage}
