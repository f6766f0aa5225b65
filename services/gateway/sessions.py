"""Sessions over REST: open, list, read, settle; an API key sees its own, an operator all. Knows no token
of a model.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from events import session
from events.envelope import Cause
from services.credentials import Principal
from services.gateway.auth import Here, Payer
from services.gateway.idempotency import Answer, Attempt
from services.gateway.paging import Fresh, Paging, Row, found, page_of
from services.gateway.refusals import SessionNotOfPool
from services.gateway.request_id import current_request_id
from services.gateway.state import Gateway, now_ms
from services.handle import handle

router = APIRouter(tags=["Sessions"])
DEFAULT_TTL_S = 3600
MAX_TTL_S = 86_400

SessionId = Annotated[str, Path(description="a session's id")]


class OpenSession(BaseModel):
    """Exactly one of `pool` (id) and `model` (name)."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"model": "tales"}})

    pool: str | None = Field(None, pattern=r"^[0-9a-z]{26}$")
    model: str | None = Field(None, min_length=1, max_length=200)
    ttl_s: int = Field(DEFAULT_TTL_S, ge=1, le=MAX_TTL_S, description="closes by itself after so long")

    @model_validator(mode="after")
    def _one(self) -> "OpenSession":
        if (self.pool is None) == (self.model is None):
            raise ValueError("give either pool or model")
        return self


@router.post("/sessions", status_code=201, summary="Open a session for several requests", response_model=None)
async def open_session(body: OpenSession, request: Request, here: Here, who: Payer) -> Response:
    async def act(attempt: Attempt) -> Answer:
        route = (
            await here.routing.of_pool(body.pool)
            if body.pool is not None
            else await here.routing.of_model(body.model or "")
        )
        close_by_unix_ms = attempt.at_unix_ms + body.ttl_s * 1000
        opened = session.Opened(route.pool_id, who.payer, route.price_wei_per_s, False, close_by_unix_ms)
        handled = await handle(
            here.events, "session", attempt.ulid, session.Open(opened), _cause(attempt.command_id)
        )
        answer = {
            "session_id": attempt.ulid,
            "pool_id": route.pool_id,
            "close_by_unix_ms": close_by_unix_ms,
            "position": handled.sequence,
        }
        return Answer(answer, 201)

    return await here.idempotency.once(request, who, body, act)


@router.get("/sessions", summary="Sessions, newest first", dependencies=[Fresh])
async def sessions(
    here: Here,
    who: Payer,
    paging: Paging,
    pool: Annotated[str | None, Query(pattern=r"^[0-9a-z]{26}$")] = None,
) -> dict[str, Any]:
    payer = None if who.is_operator else who.payer
    return await page_of(
        here.rows.sessions(paging.after, paging.limit, payer=payer, pool_id=pool), shown_session
    )


@router.get("/sessions/{session_id}", summary="One session with its requests", dependencies=[Fresh])
async def one_session(session_id: SessionId, here: Here, who: Payer) -> dict[str, Any]:
    row = await found(here, lambda: here.rows.session(session_id))
    if row is None or not (who.is_operator or row["payer"] == who.payer):
        raise session.SessionUnknown
    return shown_session(row)


@router.post(
    "/sessions/{session_id}/settle", summary="Close a session: no more requests", response_model=None
)
async def settle(session_id: SessionId, request: Request, here: Here, who: Payer) -> Response:
    async def act(attempt: Attempt) -> Answer:
        await _own_session(here, who, session_id)
        handled = await handle(
            here.events, "session", session_id, session.Settle(), _cause(attempt.command_id)
        )
        return Answer({"session_id": session_id, "position": handled.sequence})

    return await here.idempotency.once(request, who, None, act)


async def session_of_pool(here: Gateway, who: Principal, session_id: str, pool_id: str) -> None:
    """Check, from the log, that the session is the caller's, open, and of this pool.

    Raises SessionUnknown (also for another's), SessionClosed, SessionNotOfPool.
    """
    state = await _own_session(here, who, session_id)
    if isinstance(state, session.Closed) or now_ms() >= state.terms.close_by_unix_ms:
        raise session.SessionClosed
    if state.terms.pool_id != pool_id:
        raise SessionNotOfPool(f"The session is for pool {state.terms.pool_id}.")


async def _own_session(
    here: Gateway, who: Principal, session_id: str
) -> session.OpenSession | session.Closed:
    if not is_id(session_id):
        raise session.SessionUnknown
    history = await here.events.history("session", session_id)
    state = session.session.fold(item.event for item in history.recorded)
    if not isinstance(state, session.OpenSession | session.Closed):
        raise session.SessionUnknown
    if not (who.is_operator or state.terms.payer == who.payer):
        raise session.SessionUnknown
    return state


def is_id(text: str) -> bool:
    """Whether `text` could be an aggregate's id, so that it may become part of a subject."""
    return len(text) == 26 and text.isascii() and text.isalnum() and text == text.lower()


def _cause(command_id: str) -> Cause:
    return Cause(command_id, current_request_id(), command_id, now_ms())


def shown_session(row: Row) -> Row:
    """A session's row as clients see it; one session alone also has its `request_list`."""
    shown = {"session_id": row["id"], **{key: value for key, value in row.items() if key != "id"}}
    if "request_list" in row:
        shown["request_list"] = [
            {"request_id": one["id"], **{key: value for key, value in one.items() if key != "id"}}
            for one in row["request_list"]
        ]
    return shown
