"""/livez, /readyz and /metrics: is the process there, which part is not, and how much is going on.

Knows nothing of a single request. A part that is not well is named, with why and what to do.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from events import pool
from services import control
from services.gateway.auth import Here
from services.gateway.request_id import new_ulid
from services.gateway.state import Gateway

router = APIRouter(tags=["Health"])
PART_TIMEOUT_S = 2.0
MAX_LAG_COMMITS = 1000

Part = dict[str, Any]


@router.get("/livez", summary="The process answers")
async def livez() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/readyz", summary="Every part answers; a failing one is named", response_model=None)
async def readyz(here: Here) -> JSONResponse:
    checks: dict[str, Callable[[Gateway], Awaitable[Part]]] = {
        "gateway": _gateway,
        "nats": _nats,
        "postgres": _postgres,
        "projector": _projector,
        "orchestrator": _orchestrator,
        "pools": _pools,
    }
    names = list(checks)
    found = await asyncio.gather(*(_bounded(checks[name], here) for name in names))
    parts = dict(zip(names, found, strict=True))
    failing = [name for name, part in parts.items() if not part["ok"]]
    body = {"ready": not failing, "failing": failing, "parts": parts}
    return JSONResponse(body, 503 if failing else 200)


async def _bounded(check: Callable[[Gateway], Awaitable[Part]], here: Gateway) -> Part:
    try:
        return await asyncio.wait_for(check(here), PART_TIMEOUT_S)
    except TimeoutError:
        return {"ok": False, "why": f"no answer within {PART_TIMEOUT_S:g} s"}
    except Exception as failure:
        return {"ok": False, "why": f"{type(failure).__name__}: {failure}".splitlines()[0][:300]}


async def _gateway(here: Gateway) -> Part:
    return {"ok": False, "why": "stopping"} if here.stopping.is_set() else {"ok": True}


async def _nats(here: Gateway) -> Part:
    if not here.client.is_connected:
        return {"ok": False, "why": "not connected; see `computepool ps`"}
    return {"ok": True, "last_sequence": await here.events.last_sequence()}


async def _postgres(here: Gateway) -> Part:
    return {"ok": True, "position": await here.rows.position()}


async def _projector(here: Gateway) -> Part:
    lag = await lag_of(here)
    ok = lag <= MAX_LAG_COMMITS
    return {"ok": ok, "lag_commits": lag, **({} if ok else {"why": "behind the log; see its log for a halt"})}


async def lag_of(here: Gateway) -> int:
    """Commits in the log that the read model does not hold yet. When there are some, it gets a moment
    first.
    """
    last = await here.events.last_sequence()
    await here.rows.wait_for(last, 0.5)
    lag: int = max(0, last - await here.rows.position())
    here.metrics.projector_lag.set(lag)
    return lag


async def _orchestrator(here: Gateway) -> Part:
    answer = await control.ask(here.client, control.Ping(), new_ulid(), "readyz", PART_TIMEOUT_S)
    return {"ok": answer.error_code is None, "reacted_to": answer.sequence}


async def _pools(here: Gateway) -> Part:
    """Every shard of every serving pool must have said, moments ago, that it holds its slice."""
    silent: dict[str, list[str]] = {}
    after: str | None = None
    while True:
        page = await here.rows.pools(after, 100)
        for row in page.items:
            if row["status"] == "active":
                missing = await _missing(here, row["id"])
                if missing:
                    silent[row["name"]] = missing
        if not page.has_more:
            break
        after = page.items[-1]["id"]
    if silent:
        return {"ok": False, "why": "shards do not answer", "silent_shards": silent}
    return {"ok": True}


async def _missing(here: Gateway, pool_id: str) -> list[str]:
    history = await here.events.history("pool", pool_id)
    state = pool.pool.fold(item.event for item in history.recorded)
    if not isinstance(state, pool.Forming) or state.serving is None:
        return []
    epoch = state.serving.epoch
    return [
        shard.node_id
        for shard in state.serving.shards
        if not here.heartbeats.serves(shard.node_id, pool_id, epoch)
    ]


@router.get("/metrics", summary="Prometheus metrics", response_model=None)
async def metrics(here: Here) -> Response:
    here.metrics.kv_slots_used.set(here.heartbeats.kv_slots_used())
    try:
        await asyncio.wait_for(lag_of(here), PART_TIMEOUT_S)
    except Exception:
        here.metrics.projector_lag.set(float("nan"))
    return Response(here.metrics.text(), media_type=CONTENT_TYPE_LATEST)
