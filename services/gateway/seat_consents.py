"""Operators' consents to their seats, collected for whoever opens the epoch: each counts by its signature.

Taken only when the coalition would take it now; kept until the epoch is over. Opens nothing by itself.
"""

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request
from sqlalchemy import text

from services.chain import manifest
from services.chain.artifacts import artifact
from services.chain.contract import Contract
from services.chain.rpc import CallReverted, ChainAway, RpcRefused
from services.gateway.auth import Caller, Here, Operator
from services.gateway.coalitions import seats_of_plan
from services.gateway.pools import PoolId, known_pool_id
from services.gateway.refusals import ChainAwayProblem, ConsentRefused, InvalidRequest
from services.seat_signing import SeatUnsound, SignedSeat, check_seat

router = APIRouter(tags=["Pools"])
PlanEpoch = Annotated[int, Query(ge=1, lt=2**31, description="The plan's number.")]


@router.post("/pools/{pool_id}/consents", summary="An operator's signed seat", response_model=None)
async def consent(
    pool_id: PoolId, epoch: PlanEpoch, request: Request, here: Here, _: Caller
) -> dict[str, Any]:
    """Of one node of plan `epoch`; a later one for the same seat takes its place."""
    try:
        signed = msgspec.json.decode(await request.body(), type=SignedSeat)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as bad:
        raise InvalidRequest(str(bad)) from bad
    seats = await seats_of_plan(here, known_pool_id(pool_id), epoch)
    seat = next((one for one in seats if one.node_id == signed.node_id), None)
    if seat is None:
        raise ConsentRefused(f"node {signed.node_id} has no seat in plan {epoch}")
    chain = await here.till.chain()
    try:
        known = manifest.read(here.settings.manifest_of(chain.network.chain_id))
        await check_seat(chain.rpc, known, Contract(artifact("Coalition"), signed.coalition), signed, seat)
    except (ChainAway, RpcRefused, manifest.NotDeployed) as away:
        raise ChainAwayProblem(str(away)) from away
    except CallReverted as strange:
        raise ConsentRefused(f"{signed.coalition} does not answer as a coalition") from strange
    except SeatUnsound as unsound:
        raise ConsentRefused(str(unsound)) from unsound
    given = {"pool_id": pool_id, "epoch": epoch, "coalition": signed.coalition.lower()}
    async with here.engine.begin() as connection:
        await connection.execute(
            _PUT, {**given, "node_id": signed.node_id, "signed": msgspec.json.encode(signed).decode()}
        )
    return {**given, "node_id": signed.node_id, "chain_epoch": signed.chain_epoch}


@router.get("/pools/{pool_id}/consents", summary="The signed seats of a plan", response_model=None)
async def consents(pool_id: PoolId, epoch: PlanEpoch, here: Here, _: Operator) -> dict[str, Any]:
    """As they were when they came; a bond or an epoch may have changed since."""
    async with here.engine.connect() as connection:
        rows = await connection.execute(_OF_PLAN, {"pool_id": known_pool_id(pool_id), "epoch": epoch})
        return {"items": [msgspec.json.decode(row.signed) for row in rows]}


_PUT = text(
    "INSERT INTO seat_consents (pool_id, epoch, coalition, node_id, signed)"
    " VALUES (:pool_id, :epoch, :coalition, :node_id, :signed)"
    " ON CONFLICT (pool_id, epoch, coalition, node_id)"
    " DO UPDATE SET signed = excluded.signed, given_at = now()"
)
_OF_PLAN = text(
    "SELECT signed FROM seat_consents WHERE pool_id = :pool_id AND epoch = :epoch ORDER BY node_id, coalition"
)
