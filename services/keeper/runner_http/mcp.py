"""`/mcp`: Streamable HTTP with JSON-RPC 2.0, in KeeperHub's order of a session and with its error codes.

KH: app/mcp/route.ts, lib/mcp/session-error.ts. Knows no tool: see `mcp_tools`.
"""

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from services.keeper.runner_http.access import authenticated
from services.keeper.runner_http.answers import Refused
from services.keeper.runner_http.keys import AccessKey
from services.keeper.runner_http.mcp_tools import TOOLS, ArgumentsWrong

PROTOCOL = "2025-06-18"
SPOKEN = (PROTOCOL, "2025-03-26", "2024-11-05")
SESSION_S = 24 * 3600.0
MOST_SESSIONS = 1000
INVALID_REQUEST, NO_METHOD, INVALID_PARAMS, INTERNAL = -32600, -32601, -32602, -32603
RATE_LIMITED = -32029
SESSION_ERRORS = {
    "session_not_found": (404, -32001, "Session not found"),
    "session_not_initialized": (400, -32003, "Session not initialized"),
    "missing_session_id": (400, -32004, "Missing Mcp-Session-Id header"),
}
HINT = "initialize, then notifications/initialized, then tools/list or tools/call, one after the other."
UNAUTHORIZED = {"error": "invalid_token", "error_description": "Missing or invalid access token"}

router = APIRouter()


@dataclass
class Session:
    key_id: str
    used_at: float
    initialized: bool = False


@dataclass
class Sessions:
    """Each belongs to the key that opened it, and lives 24 hours after it was last used."""

    _open: dict[str, Session] = field(default_factory=dict)

    def begin(self, key_id: str) -> str:
        now = time.monotonic()
        for name in [name for name, one in self._open.items() if one.used_at < now - SESSION_S]:
            del self._open[name]
        if len(self._open) >= MOST_SESSIONS:
            del self._open[min(self._open, key=lambda name: self._open[name].used_at)]
        name = secrets.token_urlsafe(24)
        self._open[name] = Session(key_id, now)
        return name

    def find(self, name: str, key_id: str) -> Session | None:
        found = self._open.get(name)
        now = time.monotonic()
        if found is None or found.key_id != key_id or found.used_at < now - SESSION_S:
            return None
        found.used_at = now
        return found

    def end(self, name: str) -> None:
        self._open.pop(name, None)


@router.post("/mcp")
async def post(request: Request) -> Response:
    try:
        key = authenticated(request, "organisation")
    except Refused as refused:
        wrong_kind = refused.body.get("code") == "wrong_key_type"
        challenge = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
        return JSONResponse(refused.body if wrong_kind else UNAUTHORIZED, 401, challenge)
    budget = request.app.state.mcp_limit.take(key.id)
    if budget.retry_after_s is not None:
        said = {
            "jsonrpc": "2.0",
            "error": {"code": RATE_LIMITED, "message": "Rate limit exceeded"},
            "id": None,
        }
        return JSONResponse(said, 429, budget.headers)
    answer = await _answer(request, key)
    answer.headers.update(budget.headers)
    return answer


@router.delete("/mcp")
async def delete(request: Request) -> Response:
    try:
        key = authenticated(request, "organisation")
    except Refused:
        return JSONResponse(UNAUTHORIZED, 401)
    sessions: Sessions = request.app.state.sessions
    name = request.headers.get("mcp-session-id")
    if name is None:
        return _session_error("missing_session_id")
    if sessions.find(name, key.id) is None:
        return _session_error("session_not_found")
    sessions.end(name)
    return Response(status_code=200)


async def _answer(request: Request, key: AccessKey) -> Response:
    try:
        message = json.loads(await request.body())
    except ValueError:
        return JSONResponse({"error": "Invalid JSON body"}, 400)
    if not isinstance(message, Mapping) or not isinstance(message.get("method"), str):
        return _error(request, None, INVALID_REQUEST, "not a JSON-RPC request", 400)
    method, number = message["method"], message.get("id")
    params = message.get("params") or {}
    if not isinstance(params, Mapping):
        return _error(request, number, INVALID_PARAMS, "params is not an object", 400)
    sessions: Sessions = request.app.state.sessions
    if method == "initialize":
        asked = params.get("protocolVersion")
        result: dict[str, Any] = {
            "protocolVersion": asked if asked in SPOKEN else PROTOCOL,
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "computepool-keeper", "version": "1"},
        }
        return _result(request, number, result, {"Mcp-Session-Id": sessions.begin(key.id)})
    name = request.headers.get("mcp-session-id")
    if name is None:
        return _session_error("session_not_initialized")
    session = sessions.find(name, key.id)
    if session is None:
        return _session_error("session_not_found")
    if method == "notifications/initialized":
        session.initialized = True
    if number is None:
        return Response(status_code=202)
    if method == "ping":
        return _result(request, number, {})
    if not session.initialized:
        return _session_error("session_not_initialized")
    if method == "tools/list":
        return _result(request, number, {"tools": [tool.listed(name) for name, tool in TOOLS.items()]})
    if method == "tools/call":
        return await _call(request, key, number, params)
    return _error(request, number, NO_METHOD, f"no method {method}"[:100])


async def _call(request: Request, key: AccessKey, number: Any, params: Mapping[str, Any]) -> Response:
    name = str(params.get("name"))
    tool = TOOLS.get(name)
    if tool is None:
        return _error(request, number, INVALID_PARAMS, f"no tool {name}"[:100])
    try:
        arguments = tool.check(params.get("arguments") or {})
    except ArgumentsWrong as wrong:
        return _error(request, number, INVALID_PARAMS, str(wrong)[:200])
    if not key.may(tool.scope):
        said = {
            "error": "insufficient_scope",
            "message": f"This tool needs {tool.scope}.",
            "required_scope": tool.scope,
            "granted_scope": key.scope,
            "tool": name,
        }
        return _result(request, number, _content(json.dumps(said), failed=True))
    try:
        found = await tool.call(request.app.state.desk, arguments)
    except Refused as refused:
        reason = HTTPStatus(refused.status).phrase
        text = f"API call failed: {refused.status} {reason} - {json.dumps(refused.body)}"
        return _result(request, number, _content(text, failed=True))
    return _result(request, number, _content(json.dumps(found, indent=2)))


def _content(text: str, failed: bool = False) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": text}], **({"isError": True} if failed else {})}


def _session_error(reason: str) -> Response:
    status, code, text = SESSION_ERRORS[reason]
    error = {"code": code, "message": text, "data": {"reason": reason, "hint": HINT}}
    return JSONResponse({"jsonrpc": "2.0", "id": None, "error": error}, status)


def _error(request: Request, number: Any, code: int, text: str, status: int = 200) -> Response:
    return _said(request, {"jsonrpc": "2.0", "id": number, "error": {"code": code, "message": text}}, status)


def _result(request: Request, number: Any, result: Any, headers: Mapping[str, str] | None = None) -> Response:
    return _said(request, {"jsonrpc": "2.0", "id": number, "result": result}, 200, headers)


def _said(
    request: Request, message: Mapping[str, Any], status: int, headers: Mapping[str, str] | None = None
) -> Response:
    """As JSON, or as a stream of one event for a client that takes nothing else."""
    accepts = request.headers.get("accept", "")
    if "text/event-stream" in accepts and "application/json" not in accepts and "*/*" not in accepts:
        event = f"event: message\ndata: {json.dumps(message)}\n\n"
        return Response(event, status, headers, media_type="text/event-stream")
    return JSONResponse(message, status, headers)
