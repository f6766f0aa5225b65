"""The application that serves KeeperHub's paths: its routes and the layers around them."""

import re

import structlog
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from ulid import ULID

from services.gateway.request_id import BoundedBody
from services.keeper.runner_http import mcp, routes
from services.keeper.runner_http.answers import coded, request_id
from services.keeper.runner_http.desk import Desk
from services.keeper.runner_http.keys import AccessKeys
from services.keeper.runner_http.limits import Limit
from services.keeper.runner_http.mcp import Sessions

MOST_BODY_BYTES = 1_048_576
"""KH: app/api/workflows/import/route.ts."""
REST_PER_MINUTE, MCP_PER_MINUTE = 100, 120
VALID_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")

log = structlog.get_logger("keeper")


def create_app(
    desk: Desk,
    keys: AccessKeys,
    *,
    rest_per_minute: int = REST_PER_MINUTE,
    mcp_per_minute: int = MCP_PER_MINUTE,
) -> FastAPI:
    """Limits are per key. Closes nothing that it was given."""
    app = FastAPI(title="ComputePool keeper", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.desk = desk
    app.state.keys = keys
    app.state.limit = Limit(rest_per_minute)
    app.state.mcp_limit = Limit(mcp_per_minute)
    app.state.sessions = Sessions()
    app.include_router(routes.router)
    app.include_router(mcp.router)
    app.add_middleware(BoundedBody, max_bytes=MOST_BODY_BYTES, too_large=_too_large, too_deep=_too_deep)
    app.add_middleware(WithId)

    @app.exception_handler(HTTPException)
    async def no_route(request: Request, failure: HTTPException) -> Response:
        code = "not_found" if failure.status_code == 404 else "invalid_input"
        return _refused(failure.status_code, code, f"{request.method} {request.url.path}")

    return app


class WithId:
    """Takes `X-Request-Id` or makes one, answers it, and answers what nobody expected. Plain ASGI."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        name = given.decode() if VALID_ID.fullmatch(given) else str(ULID()).lower()
        request_id.set(name)
        begun = False

        async def with_id(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message["headers"] = [*message.get("headers", []), (b"x-request-id", name.encode())]
            await send(message)

        try:
            await self.app(scope, receive, with_id)
        except Exception as bug:
            log.error("bug", path=scope["path"], request_id=name, exc_info=bug)
            if begun:
                raise
            await _refused(500, "internal_error", "Unexpected error")(scope, receive, with_id)


async def _too_large(scope: Scope, receive: Receive, send: Send) -> None:
    await _refused(413, "invalid_input", f"more than {MOST_BODY_BYTES} bytes")(scope, receive, send)


async def _too_deep(scope: Scope, receive: Receive, send: Send) -> None:
    await _refused(400, "invalid_input", "the body is not JSON")(scope, receive, send)


def _refused(status: int, code: str, detail: str) -> Response:
    return JSONResponse(coded(status, code, detail).body, status)
