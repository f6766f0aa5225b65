"""KeeperHub's REST paths (KH: docs/api/{index,workflows,executions,chains}.md). `Desk` does the work."""

import json
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from services.keeper.runner_http.access import allowed
from services.keeper.runner_http.answers import coded, worded
from services.keeper.runner_http.desk import Desk, input_of

DEFAULT_WAIT_MS, MOST_WAIT_MS = 25_000, 60_000
MOST_PAGE = 200
POLL_HINT_S = 2
ENDED = ("success", "error", "cancelled")
DEPRECATED = "Put the trigger's fields inside of input."

router = APIRouter()


def desk(request: Request) -> Desk:
    found: Desk = request.app.state.desk
    return found


@router.get("/api/workflows")
async def list_workflows(request: Request) -> Response:
    asked = request.query_params
    filtered = bool(asked.get("projectId") or asked.get("tagId"))
    limit = min(max(_number(asked.get("limit"), MOST_PAGE), 1), MOST_PAGE)
    offset = max(_number(asked.get("offset"), 0), 0)
    return await allowed(request, "mcp:read", desk(request).workflows(limit, offset, filtered))


@router.post("/api/workflows/create")
async def create_workflow(request: Request) -> Response:
    return await allowed(request, "mcp:write", _with_object(request, desk(request).create))


@router.post("/api/workflows/import")
async def import_workflow(request: Request) -> Response:
    return await allowed(request, "mcp:write", _with_object(request, desk(request).take_in))


@router.get("/api/workflows/executions/{execution_id}/status")
async def execution_status(request: Request, execution_id: str) -> Response:
    answer = await allowed(request, "mcp:read", desk(request).status(execution_id))
    if answer.status_code == 200:
        ended = json.loads(bytes(answer.body))["status"] in ENDED
        answer.headers["X-Poll-Interval-Hint"] = "0" if ended else str(POLL_HINT_S)
    return answer


@router.get("/api/workflows/executions/{execution_id}/wait")
async def execution_wait(request: Request, execution_id: str) -> Response:
    wanted = _number(request.query_params.get("timeoutMs"), DEFAULT_WAIT_MS)
    within_s = min(max(wanted, 0), MOST_WAIT_MS) / 1000
    return await allowed(request, "mcp:read", desk(request).wait(execution_id, within_s))


@router.get("/api/workflows/executions/{execution_id}/logs")
async def execution_logs(request: Request, execution_id: str) -> Response:
    asked = request.query_params
    most = _number(asked.get("truncateData"), 0)
    logs = desk(request).logs(
        execution_id,
        asked.get("includeData") != "false",
        [node for node in asked.getlist("nodeIds") if node],
        most if most > 0 else None,
    )
    return await allowed(request, "mcp:read", logs)


@router.get("/api/workflows/{workflow_id}")
async def get_workflow(request: Request, workflow_id: str) -> Response:
    return await allowed(request, "mcp:read", desk(request).workflow(workflow_id))


@router.patch("/api/workflows/{workflow_id}")
async def update_workflow(request: Request, workflow_id: str) -> Response:
    async def update(body: Mapping[str, Any]) -> Any:
        return await desk(request).update(workflow_id, body)

    return await allowed(request, "mcp:write", _with_object(request, update))


@router.delete("/api/workflows/{workflow_id}")
async def delete_workflow(request: Request, workflow_id: str) -> Response:
    force = request.query_params.get("force") == "true"
    return await allowed(request, "mcp:write", desk(request).delete(workflow_id, force))


@router.get("/api/workflows/{workflow_id}/download")
async def download_workflow(request: Request, workflow_id: str) -> Response:
    answer = await allowed(request, "mcp:read", desk(request).export(workflow_id))
    if answer.status_code == 200:
        answer.headers["Content-Disposition"] = 'attachment; filename="workflow.json"'
    return answer


@router.post("/api/workflows/{workflow_id}/validate")
async def validate_workflow(request: Request, workflow_id: str) -> Response:
    return await allowed(request, "mcp:read", desk(request).validate(workflow_id))


@router.get("/api/workflows/{workflow_id}/executions")
async def list_executions(request: Request, workflow_id: str) -> Response:
    return await allowed(request, "mcp:read", desk(request).executions(workflow_id))


@router.post("/api/workflows/{workflow_id}/execute")
@router.post("/api/workflow/{workflow_id}/execute")
async def execute_workflow(request: Request, workflow_id: str) -> Response:
    deprecated = False

    async def execute() -> Any:
        nonlocal deprecated
        given, deprecated = input_of(await _json(request, {}))
        return await desk(request).execute(workflow_id, given, _key(request))

    answer = await allowed(request, "mcp:write", execute())
    if deprecated:
        answer.headers["X-Deprecation-Warning"] = DEPRECATED
    return answer


@router.post("/api/workflows/{workflow_id}/webhook")
async def fire_webhook(request: Request, workflow_id: str) -> Response:
    async def fire() -> Any:
        given = await _json(request, {})
        if not isinstance(given, Mapping):
            raise worded(400, "Request body must be a JSON object")
        return await desk(request).fire(workflow_id, given, _key(request))

    return await allowed(request, "mcp:write", fire(), kind="webhook")


@router.get("/api/mcp/schemas")
async def action_schemas(request: Request) -> Response:
    async def schemas() -> Any:
        return desk(request).schemas()

    return await allowed(request, "mcp:read", schemas())


@router.get("/api/chains")
async def list_chains(request: Request) -> Response:
    """Public, as at KeeperHub."""
    return JSONResponse(desk(request).chains())


async def _with_object(request: Request, work: Any) -> Any:
    body = await _json(request, None)
    if not isinstance(body, Mapping):
        raise coded(400, "invalid_input", "the body is not a JSON object")
    return await work(body)


async def _json(request: Request, empty: Any) -> Any:
    raw = await request.body()
    if not raw.strip():
        return empty
    try:
        return json.loads(raw)
    except ValueError as wrong:
        raise coded(400, "invalid_input", "the body is not JSON") from wrong


def _key(request: Request) -> str | None:
    given = request.headers.get("idempotency-key")
    return given.strip() or None if given is not None else None


def _number(given: str | None, default: int) -> int:
    try:
        return int(given or "")
    except ValueError:
        return default
