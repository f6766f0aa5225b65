"""What the nodes of a paid request signed, for its payer. Knows no signature: they were checked before."""

import asyncio
import time
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path

from events import session
from services.gateway.auth import Here, Payer
from services.gateway.receipt_refusals import PayerOnly, ReceiptsUnknown
from services.gateway.sessions import ENDS_WITHIN_S, SessionId, own_session
from services.gateway.state import Gateway
from services.receipts import store

router = APIRouter(tags=["Sessions"])
RequestId = Annotated[str, Path(description="a request's id")]


@router.get(
    "/sessions/{session_id}/requests/{request_id}/receipts", summary="What its nodes signed of one request"
)
async def receipts(session_id: SessionId, request_id: RequestId, here: Here, who: Payer) -> dict[str, Any]:
    """`receipts_root` is the log's; `receipts_missing` are nodes that computed and signed nothing that holds.

    `terms` is null, and there is nothing, when the session is free or nobody signed.
    """
    if who.is_operator:
        raise PayerOnly
    await own_session(here, who, session_id)
    ended = await _ending(here, session_id, request_id)
    kept = None
    if ended.receipts_root is not None:
        kept = await store.kept_under(here.client, ended.receipts_root)
        if kept is None:
            raise ReceiptsUnknown
    return {
        "session_id": session_id,
        "request_id": request_id,
        "receipts_root": ended.receipts_root,
        "receipts_missing": ended.receipts_missing,
        "terms": None if kept is None else msgspec.to_builtins(kept.terms),
        "attempt": None if kept is None else kept.attempt,
        "receipts": [] if kept is None else msgspec.to_builtins(kept.receipts),
        "usage": None if kept is None else msgspec.to_builtins(kept.usage),
    }


async def _ending(here: Gateway, session_id: str, request_id: str) -> session.GenerationEnded:
    """The last token comes a moment before the log knows the end. Raises ReceiptsUnknown, SessionBusy."""
    deadline = time.monotonic() + ENDS_WITHIN_S
    while True:
        told = [item.event for item in (await here.events.history("session", session_id)).recorded]
        for event in told:
            if isinstance(event, session.GenerationEnded) and event.request_id == request_id:
                return event
        if not any(isinstance(one, session.RequestStarted) and one.request_id == request_id for one in told):
            raise ReceiptsUnknown
        if time.monotonic() > deadline:
            raise session.SessionBusy("the request has not ended yet")
        await asyncio.sleep(0.05)
