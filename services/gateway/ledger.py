"""The ledger over REST: every payment of one session with its place on the chain, and everybody's sums.

Knows nothing of streams: it shows the rows.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Query

from services.gateway.auth import Here, Operator, Payer
from services.gateway.paging import Fresh
from services.gateway.sessions import SessionId, own_session

router = APIRouter(tags=["Ledger"])


@router.get("/ledger", summary="What every operator received and payer paid", dependencies=[Fresh])
async def ledger(
    here: Here, _: Operator, limit: Annotated[int, Query(ge=1, le=1000, description="of each list")] = 100
) -> dict[str, Any]:
    """The largest sums first. What a reorg took back is not in them.

    `slashed`: what left operators' bonds; `compensated`: what of it went to payers (micro-USDC).
    """
    return await here.rows.accounts(limit)


@router.get("/sessions/{session_id}/ledger", summary="A session's payments", dependencies=[Fresh])
async def session_ledger(session_id: SessionId, here: Here, who: Payer) -> dict[str, Any]:
    """In the log's order; `account` null is the payer. What was taken back stands again, negative."""
    await own_session(here, who, session_id)
    return {"items": await here.rows.ledger_of(session_id)}
