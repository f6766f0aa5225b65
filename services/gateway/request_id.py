"""The outer layer of every request: its id in and out, one log line, a bounded body; knows nothing of routes.

Plain ASGI, so that a client's disconnect reaches the routes unchanged.
"""

import re
import time
from contextvars import ContextVar

import orjson
import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from ulid import ULID

_VALID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_request_id: ContextVar[str] = ContextVar("request_id", default="")

log = structlog.get_logger("gateway")


def current_request_id() -> str:
    """The id of the request being served, "" outside one."""
    return _request_id.get()


def new_ulid() -> str:
    """A fresh lower-case ULID."""
    return str(ULID()).lower()


class RequestId:
    """Takes `X-Request-Id` when it is 1..128 of [A-Za-z0-9._:-], else makes one; answers and logs it.

    What the routes did not expect is logged and answered by `mistake` (an ASGI app).
    """

    def __init__(self, app: ASGIApp, mistake: ASGIApp) -> None:
        self.app, self.mistake = app, mistake

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        request_id = given.decode() if _VALID.fullmatch(given) else new_ulid()
        _request_id.set(request_id)
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        started, status = time.monotonic(), 0

        async def with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self.app(scope, receive, with_id)
        except Exception as bug:
            log.error("bug", path=scope["path"], exc_info=bug)
            if status:
                raise
            await self.mistake(scope, receive, with_id)
        finally:
            spent_ms = round((time.monotonic() - started) * 1000, 1)
            log.info("served", method=scope["method"], path=scope["path"], status=status, ms=spent_ms)


_DRAINED = 8
"""So many times the allowed size is read and thrown away: a client that still sends can't read the
refusal.
"""


class BoundedBody:
    """Reads the body before the route does.

    More than `max_bytes` is answered by `too_large`, JSON nested without end by `too_deep` (both ASGI
    apps): a library of ours lifts Python's recursion limit, so that the JSON parser would run off its
    stack.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, too_large: ASGIApp, too_deep: ASGIApp) -> None:
        self.app, self.max_bytes, self.too_large, self.too_deep = app, max_bytes, too_large, too_deep

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        read: list[Message] = []
        size, more = 0, True
        while more and size <= _DRAINED * self.max_bytes:
            message = await receive()
            more = message["type"] == "http.request" and message.get("more_body", False)
            size += len(message.get("body", b""))
            if size <= self.max_bytes:
                read.append(message)
        if size > self.max_bytes:
            await self.too_large(scope, receive, send)
            return
        if _is_too_deep(b"".join(message.get("body", b"") for message in read)):
            await self.too_deep(scope, receive, send)
            return

        async def replay() -> Message:
            return read.pop(0) if read else await receive()

        await self.app(scope, replay, send)


def _is_too_deep(body: bytes) -> bool:
    """Whether the body is not JSON of at most 1024 levels (orjson's limit); looks only at what could be."""
    if body.count(b"[") + body.count(b"{") <= 500:
        return False
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        return True
    return False
