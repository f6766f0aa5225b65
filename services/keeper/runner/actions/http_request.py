"""The HTTP Request action: one request, again only for what can pass, never to a private address by
accident.

A name is resolved once and the connection goes to the address that was looked at, so a name can't point
elsewhere a moment later. Origins that the runner was given may be private: the callback's on a local stack.
Redirects are not followed. A request to the callback address is signed, with a delivery id that stays the
same on every attempt, also after a crash. Knows no workflow.
"""

import asyncio
import ipaddress
import json
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

import httpx

from services.keeper.runner.actions.step import Means, Result, Step, failure
from services.keeper.runner.written import compact
from services.keeper.signed_headers import signed_headers

RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
TIMEOUT_S, LEAST_S, MOST_S = 5.0, 1.0, 30.0
MOST_RETRIES, RETRY_DELAY_S, MOST_DELAY_S = 5, 1.0, 30.0
MOST_BYTES = 1 << 20
CALLER = "runner"


class Refused(Exception):
    """This request is never sent."""


@dataclass(frozen=True)
class Answer:
    """`status` None: nobody answered."""

    status: int | None
    data: Any
    error: str | None


async def http_request(step: Step, means: Means) -> Result:
    """`{success, data, status}`; soft with `failOnError` false: `{success: true, data: null, status,
    error}`.
    """
    endpoint = step.said("endpoint")
    if not endpoint:
        return failure("HTTP request failed: URL is required")
    attempts = 1 + int(min(max(0.0, _number(step, "retryAttempts", 0.0)), MOST_RETRIES))
    delay_s = min(max(0.0, _number(step, "retryDelay", RETRY_DELAY_S)), MOST_DELAY_S)
    answer = Answer(None, None, None)
    for attempt in range(1, attempts + 1):
        try:
            answer = await _attempt(step, means, endpoint)
        except Refused as why:
            return failure(f"HTTP request failed: {why}")
        if answer.error is None:
            return {"success": True, "data": answer.data, "status": answer.status}
        if attempt < attempts and (answer.status is None or answer.status in RETRIED):
            await asyncio.sleep(delay_s * attempt)
        else:
            break
    if step.on("failOnError", True):
        return failure(answer.error or "", **({} if answer.status is None else {"status": answer.status}))
    return {"success": True, "data": None, "status": answer.status, "error": answer.error}


async def _attempt(step: Step, means: Means, endpoint: str) -> Answer:
    method = step.said("httpMethod").upper() or "POST"
    body = _body(method, step.said("httpBody"))
    headers = _headers(step.said("httpHeaders"))
    started = time.monotonic()
    url, headers, extensions = await _target(endpoint, headers, means)
    called_back = means.signing is not None and endpoint == means.signing.callback_url
    if called_back:
        headers = {**headers, **_signature(step, means, method, endpoint, body)}
    within_s = min(max(LEAST_S, _number(step, "timeout", TIMEOUT_S)), MOST_S)
    try:
        async with asyncio.timeout(within_s):
            async with means.http.stream(
                method, url, content=body, headers=headers, extensions=extensions, timeout=within_s
            ) as response:
                answer = await _read(response)
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError) as away:
        answer = Answer(None, None, f"HTTP request failed: {str(away) or type(away).__name__}")
    if called_back and means.deliveries is not None:
        ms = round((time.monotonic() - started) * 1000)
        await means.deliveries.attempted(
            step.delivery, step.execution_id, endpoint, body, answer.status, answer.error, ms
        )
    return answer


async def _read(response: httpx.Response) -> Answer:
    kept = bytearray()
    async for part in response.aiter_bytes():
        kept += part
        if len(kept) > MOST_BYTES:
            return Answer(response.status_code, None, f"HTTP request failed: more than {MOST_BYTES} bytes")
    said = kept.decode(response.charset_encoding or "utf-8", "replace")
    if not response.is_success:
        return Answer(
            response.status_code,
            None,
            f"HTTP request failed with status {response.status_code}: {said[:500]}",
        )
    data: Any = said
    if "application/json" in response.headers.get("content-type", ""):
        try:
            data = json.loads(said, parse_constant=_no_number)
        except ValueError as wrong:
            return Answer(response.status_code, None, f"HTTP request failed: not JSON: {wrong}")
    return Answer(response.status_code, data, None)


def _signature(step: Step, means: Means, method: str, endpoint: str, body: bytes) -> dict[str, str]:
    assert means.signing is not None
    return signed_headers(
        means.signing.secret,
        means.signing.key_id,
        url=endpoint,
        caller=CALLER,
        delivery=step.delivery,
        execution=step.execution_id,
        now_unix_s=int(time.time()),
        body=body,
        method=method,
    )


async def _target(
    endpoint: str, headers: Mapping[str, str], means: Means
) -> tuple[str, dict[str, str], dict[str, Any]]:
    """Where to connect, the Host header that goes with it, and the name for TLS. Raises Refused."""
    try:
        parts = urlsplit(endpoint)
        host, port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as wrong:
        raise Refused(f"not a URL: {endpoint}") from wrong
    if parts.scheme not in ("http", "https") or not host:
        raise Refused(f"not a URL: {endpoint}")
    if _origin(parts) in {_origin(urlsplit(allowed)) for allowed in means.http_allowed}:
        return endpoint, dict(headers), {}
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as unknown:
        raise Refused(f"{host} is not known: {unknown}") from unknown
    addresses = [ipaddress.ip_address(item[4][0]) for item in found]
    for address in addresses:
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        if not (mapped or address).is_global or (mapped or address).is_multicast:
            raise Refused(f"URL is not allowed: {host} is at the private address {address}")
    pinned = f"[{addresses[0]}]" if addresses[0].version == 6 else str(addresses[0])
    query = f"?{parts.query}" if parts.query else ""
    named = {key: value for key, value in headers.items() if key.lower() != "host"}
    return (
        f"{parts.scheme}://{pinned}:{port}{parts.path or '/'}{query}",
        {**named, "Host": parts.netloc.rpartition("@")[2]},
        {"sni_hostname": host},
    )


def _origin(parts: SplitResult) -> tuple[str, str, int]:
    return parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _body(method: str, said: str) -> bytes:
    """JSON is read and written again; anything else goes as it is; GET has none."""
    if method == "GET" or said in ("", "{}"):
        return b""
    try:
        value = json.loads(said)
    except ValueError:
        return said.encode("utf-8", "replace")
    return (
        compact(value).encode("utf-8", "replace") if isinstance(value, dict | list | str) and value else b""
    )


def _headers(said: str) -> dict[str, str]:
    """What is not a JSON object of texts that a header can hold is none."""
    try:
        value = json.loads(said)
    except ValueError:
        return {}
    if not isinstance(value, dict):
        return {}
    texts = {key: item if isinstance(item, str) else compact(item) for key, item in value.items()}
    if all((key + item).isascii() and (key + item).isprintable() and key for key, item in texts.items()):
        return texts
    return {}


def _number(step: Step, name: str, otherwise: float) -> float:
    try:
        return float(step.said(name) or otherwise)
    except ValueError:
        return otherwise


def _no_number(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")
