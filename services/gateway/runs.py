"""Keeper runs over REST: what was asked, where it ran, what it sent. Knows not how one is carried out."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query

from events import workflow
from services.gateway.auth import Here, Operator
from services.gateway.paging import Fresh

router = APIRouter(tags=["Runs"])
RunId = Annotated[str, Path(pattern=r"^[0-9a-hjkmnp-tv-z]{26}$", description="a run's id")]


@router.get("/keeper", summary="The wallet that keeper runs send with")
async def keeper(here: Here, _: Operator) -> dict[str, Any]:
    """It controls new sessions' escrows, and has to be the steward of coalitions that runs are to open."""
    chain = await here.till.chain()
    return {"wallet": chain.controller, "chain_id": chain.network.chain_id}


@router.get("/runs", summary="Keeper runs, the newest first", dependencies=[Fresh])
async def runs(
    here: Here,
    _: Operator,
    subject_id: Annotated[
        str | None, Query(max_length=64, description="of one session, pool or slash")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> dict[str, Any]:
    return {"items": await here.rows.runs(subject_id, limit)}


@router.get("/runs/{run_id}", summary="A keeper run with its transactions", dependencies=[Fresh])
async def run(run_id: RunId, here: Here, _: Operator) -> dict[str, Any]:
    found = await here.rows.run(run_id)
    if found is None:
        raise workflow.RunUnknown(f"no run {run_id}")
    return found
