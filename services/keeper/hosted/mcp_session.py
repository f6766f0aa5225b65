"""One MCP session at KeeperHub: opened when needed, renewed when told so, opened once more when lost.

Streamable HTTP with JSON-RPC 2.0; an answer may be JSON or an event stream. Order of the beginning and the
codes of its errors: KH: lib/mcp/session-error.ts. Knows no tool.
"""

import asyncio
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from pydantic import SecretStr

from services.keeper.backend import BackendRefused
from services.keeper.hosted.keys import require, safe_url
from services.keeper.hosted.patience import Lost, Pace
from services.keeper.hosted.replies import Reply, seconds

PROTOCOL = "2025-06-18"
ACCEPT = "application/json, text/event-stream"
SESSION_LOST = {-32001, -32002, -32003, -32004}
"""Not found, expired, not initialised, missing: the call was not taken."""
RATE_LIMITED = -32029
INVALID = {-32600, -32601, -32602, -32700}
API_FAILED = re.compile(r"(?:Error: )?API call failed: (\d{3})(?:(?:(?! - ).)* - (.*))?", re.DOTALL)
COLD_START = "upstream_cold_start"
STREAM = "text/event-stream"


@dataclass(frozen=True)
class Heard:
    status_code: int
    headers: httpx.Headers
    text: str


class McpSession:
    """`key`: of an organisation. Raises WrongKeyKind and UnsafeUrl."""

    def __init__(self, url: str, key: SecretStr, timeout_s: float, longest_pause_s: float) -> None:
        self._url = safe_url(url) + "/mcp"
        self._key = require(key, "organisation")
        self._timeout_s = timeout_s
        self._pace = Pace(longest_pause_s)
        self._client = httpx.AsyncClient(trust_env=False, follow_redirects=False)
        self._session: str | None = None
        self._opening = asyncio.Lock()
        self._number = 0

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> Reply:
        """One call of a tool as a reply with the status of the REST call behind it. Raises Lost and
        BackendRefused.
        """
        params = {"name": tool, "arguments": dict(arguments)}
        for again in (True, False):
            session, refused = await self._open()
            if refused is not None:
                return refused
            number = self._next()
            response = await self._post(
                {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}, session
            )
            message = message_of(response, number)
            if again and _session_lost(response, message):
                if self._session == session:
                    self._session = None
                continue
            return tool_reply(response, message)
        raise AssertionError("the second time returns")

    async def close(self) -> None:
        await self._client.aclose()

    async def _open(self) -> tuple[str, Reply | None]:
        """The session's id, or why there is none. `initialized` is sent before anything else may be."""
        async with self._opening:
            if self._session is not None:
                return self._session, None
            number = self._next()
            params = {
                "protocolVersion": PROTOCOL,
                "capabilities": {},
                "clientInfo": {"name": "computepool", "version": "1"},
            }
            response = await self._post(
                {"jsonrpc": "2.0", "id": number, "method": "initialize", "params": params}, None
            )
            message = message_of(response, number)
            if response.status_code != 200 or message is None or "error" in message:
                return "", tool_reply(response, message)
            session = response.headers.get("mcp-session-id")
            if not session:
                why = "KeeperHub opened no session for this key; is it revoked, or of another organisation?"
                raise BackendRefused("unauthorized", why, status=401)
            self._session = session
            begun = await self._post({"jsonrpc": "2.0", "method": "notifications/initialized"}, session)
            if begun.status_code >= 400:
                self._session = None
                return "", tool_reply(begun, message_of(begun, None))
            return self._session, None

    async def _post(self, body: Mapping[str, Any], session: str | None) -> Heard:
        headers = {"Authorization": f"Bearer {self._key.get_secret_value()}", "Accept": ACCEPT}
        if session is not None:
            headers |= {"Mcp-Session-Id": session, "MCP-Protocol-Version": PROTOCOL}
        await self._pace.turn()
        try:
            heard = await self._hear(body, headers)
        except httpx.HTTPError as lost:
            raise Lost(f"{type(lost).__name__}: {lost}") from lost
        self._pace.heard(heard.headers)
        renewed = heard.headers.get("mcp-session-id")
        if session is not None and renewed and self._session == session:
            self._session = renewed
        return heard

    async def _hear(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> Heard:
        """A stream is left when the answer has come: a server may keep it open."""
        number, text = body.get("id"), ""
        async with self._client.stream(
            "POST", self._url, json=body, headers=headers, timeout=self._timeout_s
        ) as response:
            streams = response.headers.get("content-type", "").startswith(STREAM)
            async for part in response.aiter_text():
                text += part
                if streams and message_of(Heard(200, response.headers, text), number) is not None:
                    break
            return Heard(response.status_code, response.headers, text)

    def _next(self) -> int:
        self._number += 1
        return self._number


def message_of(response: Heard, number: int | None) -> dict[str, Any] | None:
    """The JSON-RPC answer to request `number`, from either form; an error without an id is an answer too."""
    if response.headers.get("content-type", "").startswith(STREAM):
        texts = _events(response.text)
    else:
        texts = [response.text]
    for text in texts:
        try:
            message = json.loads(text)
        except ValueError:
            continue
        if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
            continue
        if message.get("id") == number or (message.get("id") is None and "error" in message):
            return message
    return None


def _events(stream: str) -> list[str]:
    """The data of each event (WHATWG HTML, 9.2.6); comments, names and ids are of no use here."""
    found = []
    for block in re.split(r"(?:\r\n|\r|\n){2,}", stream):
        lines = [line[5:].removeprefix(" ") for line in re.split(r"\r\n|\r|\n", block) if line[:5] == "data:"]
        if lines:
            found.append("\n".join(lines))
    return found


def _session_lost(response: Heard, message: Mapping[str, Any] | None) -> bool:
    """KeeperHub/mcp-client: python/keeperhub_mcp/client.py: 401, or a 404 that speaks of a session."""
    if response.status_code == 401:
        return True
    if response.status_code == 404 and "session" in response.text.lower():
        return True
    error = (message or {}).get("error")
    return isinstance(error, Mapping) and error.get("code") in SESSION_LOST


def tool_reply(response: Heard, message: Mapping[str, Any] | None) -> Reply:
    """What a REST call would have answered: a tool is one such call at the server's side."""
    headers = response.headers
    after = seconds(headers.get("retry-after"), time.time())
    request_id = headers.get("x-request-id")
    if message is None:
        try:
            body = json.loads(response.text)
        except ValueError:
            body = None
        known = isinstance(body, dict) and "error" in body and response.status_code >= 400
        return Reply(
            response.status_code,
            body,
            known or response.status_code == 429,
            after,
            request_id=request_id,
        )
    error = message.get("error")
    if isinstance(error, Mapping):
        number = error.get("code")
        said = {"error": str(error.get("message", "")), "code": f"jsonrpc_{number}".replace("-", "")}
        if number == RATE_LIMITED:
            return Reply(429, {**said, "code": "rate_limited"}, True, after, request_id=request_id)
        if number in SESSION_LOST:
            return Reply(401, {**said, "code": "unauthorized"}, True, request_id=request_id)
        status = response.status_code if response.status_code >= 400 else 400 if number in INVALID else 500
        return Reply(status, said, True, after, request_id=request_id)
    result = message.get("result")
    if not isinstance(result, Mapping):
        return Reply(200, None, False, request_id=request_id)
    text = _text(result)
    try:
        body = json.loads(text)
    except ValueError:
        body = None
    if not result.get("isError"):
        return Reply(200, body, text != "" and body is not None, request_id=request_id)
    return _tool_error(text, body, request_id)


def _text(result: Mapping[str, Any]) -> str:
    content = result.get("content")
    first = content[0] if isinstance(content, list) and content else None
    text = first.get("text") if isinstance(first, Mapping) else None
    return text if isinstance(text, str) else ""


def _tool_error(text: str, body: Any, request_id: str | None) -> Reply:
    if isinstance(body, Mapping):
        if body.get("code") == COLD_START:
            wait_s = body.get("retryAfterSeconds")
            after = float(wait_s) if isinstance(wait_s, int | float) else None
            return Reply(503, dict(body), True, after, request_id=request_id)
        status = 403 if body.get("error") == "insufficient_scope" else 400
        return Reply(status, dict(body), True, request_id=request_id)
    failed = API_FAILED.match(text)
    if failed is None:
        return Reply(
            400, {"error": text or "the tool failed", "code": "tool_failed"}, True, request_id=request_id
        )
    try:
        body = json.loads(failed[2] or "")
    except ValueError:
        body = {"error": failed[2] or text}
    return Reply(int(failed[1]), body, True, request_id=request_id)
