"""Sessions over REST: open (a priced pool's by a payment), list, read, settle, and a lost key again.

An API key sees its own, a session's key that one, an operator all. Knows no token of a model.
"""

import asyncio
import time
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from events import session
from events.envelope import Cause
from services.credentials import Principal
from services.gateway import session_keys
from services.gateway.auth import Buyer, Caller, Here, Payer
from services.gateway.checkout import Purchase, admit, buy, headers_of, known
from services.gateway.idempotency import Answer, Attempt
from services.gateway.paging import Fresh, Paging, Row, found, page_of
from services.gateway.refusals import InvalidRequest, KeyRequestForged, SessionNotOfPool
from services.gateway.request_id import current_request_id
from services.gateway.routing import Route
from services.gateway.state import Gateway, now_ms
from services.handle import handle
from services.typed_data import recovered_signer

router = APIRouter(tags=["Sessions"])
DEFAULT_TTL_S = 3600
MAX_TTL_S = 86_400
ENDS_WITHIN_S = 2.0
"""A client may ask to settle before the end of the answer it just read stands in the log."""

SessionId = Annotated[str, Path(description="a session's id")]


class OpenSession(BaseModel):
    """Exactly one of `pool` (id) and `model` (name)."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"model": "tales"}})

    pool: str | None = Field(None, pattern=r"^[0-9a-z]{26}$")
    model: str | None = Field(None, min_length=1, max_length=200)
    ttl_s: int = Field(DEFAULT_TTL_S, ge=1, le=MAX_TTL_S, description="closes by itself after so long")
    budget_micro: int | None = Field(
        None, ge=1, lt=2**63, description="of a priced pool: the voucher, in micro-USDC; the rest is refunded"
    )

    @model_validator(mode="after")
    def _one(self) -> "OpenSession":
        if (self.pool is None) == (self.model is None):
            raise ValueError("give either pool or model")
        return self


@router.post("/sessions", status_code=201, summary="Open a session for several requests", response_model=None)
async def open_session(body: OpenSession, request: Request, here: Here, who: Buyer) -> Response:
    """Of a priced pool: 402 with x402's headers, or paid; a voucher takes an Idempotency-Key's place."""
    if body.model is not None:
        await admit(here, request, who, body.model)
    route = (
        await here.routing.of_pool(body.pool)
        if body.pool is not None
        else await here.routing.of_model(body.model or "")
    )
    if not route.is_free:
        return await _bought(body, request, here, route)
    if body.budget_micro is not None:
        raise InvalidRequest("A session of a free pool has no budget.", param="budget_micro")
    caller = known(request, who)

    async def act(attempt: Attempt) -> Answer:
        close_by_unix_ms = attempt.at_unix_ms + body.ttl_s * 1000
        opened = session.Opened(route.pool_id, caller.payer, route.price_wei_per_s, False, close_by_unix_ms)
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

    return await here.idempotency.once(request, caller, body, act)


async def _bought(body: OpenSession, request: Request, here: Gateway, route: Route) -> Response:
    paid = await buy(here, request, route, Purchase(body.ttl_s, body.ttl_s, body.budget_micro))
    history = await here.events.history("session", paid.session_id)
    state = session.session.fold(item.event for item in history.recorded)
    assert isinstance(state, session.OpenSession | session.Closed)
    answer = {
        "session_id": paid.session_id,
        "session_key": session_keys.key_of(here.till.secret, paid.session_id),
        "pool_id": route.pool_id,
        "payer": paid.payer,
        "paid_micro": paid.micro,
        "close_by_unix_ms": state.terms.close_by_unix_ms,
        "position": history.last_sequence,
    }
    return JSONResponse(answer, 201, headers_of(here, paid))


class AskKey(BaseModel):
    """`signature`: the payer's, of the EIP-712 typed data SessionKey(string session,uint256 deadline)."""

    model_config = ConfigDict(extra="forbid")

    deadline: int = Field(ge=0, lt=2**63, description="unix seconds, at most 600 from now")
    signature: str = Field(pattern=r"^0x[0-9a-fA-F]{130}$")


KEY_WITHIN_S = 600


@router.post("/sessions/{session_id}/key", summary="A paid session's key, for its payer's signature")
async def key_again(session_id: SessionId, body: AskKey, here: Here, _: Caller) -> dict[str, Any]:
    """The key was lost, or the answer that had it. A voucher alone is no proof: it stands on the chain."""
    state = await _session(here, session_id)
    now = now_ms() // 1000
    typed = session_keys.asking(session_id, body.deadline, here.settings.chain_id)
    signer = recovered_signer(typed, body.signature.removeprefix("0x"))
    is_payer = state.voucher is not None and signer is not None
    if not (is_payer and str(signer).lower() == state.terms.payer.lower() and now < body.deadline):
        raise KeyRequestForged
    if body.deadline > now + KEY_WITHIN_S:
        raise KeyRequestForged(f"The deadline may be {KEY_WITHIN_S} s from now at most.")
    return {"session_id": session_id, "session_key": session_keys.key_of(here.till.secret, session_id)}


@router.get("/sessions", summary="Sessions, newest first", dependencies=[Fresh])
async def sessions(
    here: Here,
    who: Payer,
    paging: Paging,
    pool: Annotated[str | None, Query(pattern=r"^[0-9a-z]{26}$")] = None,
) -> dict[str, Any]:
    if who.kind == "session":
        row = await here.rows.session(who.id)
        own = (
            [shown_session({key: value for key, value in row.items() if key != "request_list"})]
            if row
            else []
        )
        return {"items": own, "has_more": False}
    payer = None if who.is_operator else who.payer
    return await page_of(
        here.rows.sessions(paging.after, paging.limit, payer=payer, pool_id=pool), shown_session
    )


@router.get("/sessions/{session_id}", summary="One session with its requests", dependencies=[Fresh])
async def one_session(session_id: SessionId, here: Here, who: Payer) -> dict[str, Any]:
    row = await found(here, lambda: here.rows.session(session_id))
    if row is None or not _may_see(who, session_id, row["payer"]):
        raise session.SessionUnknown
    return shown_session(row)


@router.post(
    "/sessions/{session_id}/settle", summary="Close a session: no more requests", response_model=None
)
async def settle(session_id: SessionId, request: Request, here: Here, who: Payer) -> Response:
    async def act(attempt: Attempt) -> Answer:
        await own_session(here, who, session_id)
        deadline = time.monotonic() + ENDS_WITHIN_S
        while True:
            try:
                cause = _cause(attempt.command_id)
                handled = await handle(here.events, "session", session_id, session.Settle(), cause)
                return Answer({"session_id": session_id, "position": handled.sequence})
            except session.SessionBusy:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.05)

    return await here.idempotency.once(request, who, None, act)


async def session_of_pool(here: Gateway, who: Principal | None, session_id: str, route: Route) -> None:
    """Check, from the log, that the session is the caller's, of this pool and, on a free pool, open.

    Raises SessionUnknown (also for another's), SessionClosed, SessionNotOfPool. A paid session that is over
    is no refusal here: the request may be paid for anew.
    """
    if who is None:
        raise session.SessionUnknown
    state = await own_session(here, who, session_id)
    over = isinstance(state, session.Closed) or now_ms() >= state.terms.close_by_unix_ms
    if over and route.is_free:
        raise session.SessionClosed
    if state.terms.pool_id != route.pool_id:
        raise SessionNotOfPool(f"The session is for pool {state.terms.pool_id}.")


async def own_session(here: Gateway, who: Principal, session_id: str) -> session.OpenSession | session.Closed:
    state = await _session(here, session_id)
    if not _may_see(who, session_id, state.terms.payer):
        raise session.SessionUnknown
    return state


def _may_see(who: Principal, session_id: str, payer: str) -> bool:
    """A session's key opens that session, not the payer's others."""
    return who.is_operator or (who.id == session_id if who.kind == "session" else payer == who.payer)


async def _session(here: Gateway, session_id: str) -> session.OpenSession | session.Closed:
    """Raises SessionUnknown."""
    if not is_id(session_id):
        raise session.SessionUnknown
    history = await here.events.history("session", session_id)
    state = session.session.fold(item.event for item in history.recorded)
    if not isinstance(state, session.OpenSession | session.Closed):
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
