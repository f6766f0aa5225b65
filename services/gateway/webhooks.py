"""`POST /webhooks/keeperhub`: takes the callback of a run when it is proven to be one, and answers at once.

It is written down, nothing more: the keeper looks at the run, and the chain says what is true. The contract
for a sender is docs/webhooks.md. Knows nothing of what a callback brings about.
"""

import asyncio
import time
from urllib.parse import urlsplit

import structlog
from fastapi import APIRouter, Request
from sqlalchemy.exc import SQLAlchemyError

from events.envelope import EventInvalid
from events.workflow import Requested
from services.gateway import callback_proof
from services.gateway.auth import Here
from services.gateway.callback_proof import Callback, proven
from services.gateway.callback_refusals import (
    CallbackCrowded,
    CallbackForged,
    CallbackImpossible,
    CallbackMalformed,
    CallbackStoreAway,
)
from services.gateway.refusals import RequestTooLarge
from services.gateway.state import Gateway
from services.keeper.callbacks import PATH
from services.keeper.definitions import callback_events
from services.log import LogUnavailable

router = APIRouter(tags=["Webhooks"])
ANSWERS_WITHIN_S = 0.8
"""A sender may give up after a second; what takes longer is answered 503, and he tries again."""

log = structlog.get_logger("webhooks")


@router.post(PATH, summary="A keeper run calls back", openapi_extra={"security": []})
async def called_back(request: Request, here: Here) -> dict[str, bool]:
    body = await request.body()
    if len(body) > callback_proof.MOST_BYTES:
        raise RequestTooLarge(f"A callback has at most {callback_proof.MOST_BYTES} bytes.")
    headers = {name.lower(): value for name, value in request.headers.items()}
    path = urlsplit(here.settings.public_url).path.rstrip("/") + PATH
    try:
        callback = proven("POST", path, headers, body, here.hooks, int(time.time()))
    except callback_proof.Forged as forged:
        here.metrics.callbacks_forged.labels(forged.reason).inc()
        log.warning("callback_forged", reason=forged.reason)
        raise CallbackForged(str(forged)) from forged
    except callback_proof.Malformed as malformed:
        raise CallbackMalformed(str(malformed)) from malformed
    try:
        async with asyncio.timeout(ANSWERS_WITHIN_S):
            await _check_possible(here, callback)
            taken = await _take(here, callback)
    except (SQLAlchemyError, LogUnavailable, OSError) as away:
        log.warning("callback_not_stored", why=type(away).__name__)
        raise CallbackStoreAway from away
    if taken == "crowded":
        raise CallbackCrowded
    here.metrics.callbacks.labels(taken).inc()
    log.info("callback", outcome=taken, run_id=callback.run_key, event_told=callback.event)
    return {"received": True} if taken == "accepted" else {"received": True, "duplicate": True}


async def _take(here: Gateway, callback: Callback) -> str:
    return await here.inbox.take(
        proof=callback.proof,
        delivery=callback.delivery,
        key_id=callback.key_id,
        execution=callback.execution,
        run_key=callback.run_key,
        event=callback.event,
        transaction_hash=callback.transaction_hash,
    )


async def _check_possible(here: Gateway, callback: Callback) -> None:
    """Such a run was asked for, and its workflow tells such an event. Raises CallbackImpossible."""
    try:
        history = await here.events.history("workflow", callback.run_key)
    except EventInvalid:
        raise CallbackImpossible("No run has such a `run_key`.") from None
    first = history.recorded[0].event if history.recorded else None
    if not isinstance(first, Requested):
        raise CallbackImpossible("No run has this `run_key`.")
    allowed = callback_events(first.workflow) if callback.allowed is None else callback.allowed
    if callback.event not in allowed:
        raise CallbackImpossible(f"A run of {first.workflow} tells {', '.join(allowed)}, not this event.")
