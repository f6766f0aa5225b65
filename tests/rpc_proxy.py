"""An HTTP proxy between a client and a chain's JSON-RPC that answers with errors at a chosen moment.

Each fault is what real nodes, and the gateways before them, were seen to answer. Knows no method but the one
by which transactions are sent: an error may follow a sending that worked.
"""

import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

SENDING = "eth_sendRawTransaction"
Fault = Callable[[web.Request, bytes, bytes], Awaitable[web.StreamResponse]]
"""Of the request, what it asked, and what the chain answers it."""


def plain(status: int, text: str, **headers: str) -> Fault:
    """An answer of whatever stands before the node."""

    async def answer(_: web.Request, __: bytes, ___: bytes) -> web.StreamResponse:
        return web.Response(status=status, text=text, headers=headers)

    return answer


def refusal(number: int, message: str, status: int = 200, **more: object) -> Fault:
    """A JSON-RPC error of the node itself."""

    async def answer(_: web.Request, asked: bytes, __: bytes) -> web.StreamResponse:
        error = {"code": number, "message": message, **more}
        return web.json_response(
            {"jsonrpc": "2.0", "id": json.loads(asked)["id"], "error": error}, status=status
        )

    return answer


async def half(_: web.Request, __: bytes, there: bytes) -> web.StreamResponse:
    """The first half of the chain's answer, as if it were whole."""
    return web.Response(body=there[: len(there) // 2], content_type="application/json")


async def cut(request: web.Request, _: bytes, there: bytes) -> web.StreamResponse:
    """The first half of the chain's answer; then the connection is gone."""
    response = web.StreamResponse(headers={"Content-Length": str(len(there))})
    await response.prepare(request)
    await response.write(there[: len(there) // 2])
    if request.transport is not None:
        request.transport.abort()
    return response


async def not_packed(_: web.Request, __: bytes, there: bytes) -> web.StreamResponse:
    """An answer that says of itself that it is compressed."""
    return web.Response(body=there, headers={"Content-Encoding": "gzip"})


async def of_another(_: web.Request, asked: bytes, __: bytes) -> web.StreamResponse:
    """The answer to another request."""
    return web.json_response({"jsonrpc": "2.0", "id": json.loads(asked)["id"] + 1, "result": "0x1"})


def result(value: object) -> Fault:
    """A well-formed answer that holds what no chain says."""

    async def answer(_: web.Request, asked: bytes, __: bytes) -> web.StreamResponse:
        return web.json_response({"jsonrpc": "2.0", "id": json.loads(asked)["id"], "result": value})

    return answer


FAULTS: dict[str, Fault] = {
    "http 500": plain(500, "Internal Server Error"),
    "http 502": plain(502, "<html><body>Bad Gateway</body></html>"),
    "http 503": plain(503, '{"message": "no upstream"}'),
    "http 429": plain(429, '{"error": "Too Many Requests"}', **{"Retry-After": "1"}),
    "http 401": plain(401, '{"message": "Must be authenticated"}'),
    "http 500 with a refusal": refusal(-32603, "internal error", status=500),
    "refusal -32603": refusal(-32603, "Internal error"),
    "refusal -32000": refusal(-32000, "header not found"),
    "refusal -32005": refusal(
        -32005, "daily request count exceeded", data={"see": "https://example.invalid"}
    ),
    "error that is a text": plain(200, '{"jsonrpc": "2.0", "id": 1, "error": "try again later"}'),
    "error without a code": plain(200, '{"jsonrpc": "2.0", "id": 1, "error": {"message": null}}'),
    "nothing": plain(200, ""),
    "garbage": plain(200, "\x00\x01 no JSON at all"),
    "a page": plain(200, "<html><body>Down for maintenance</body></html>"),
    "null": plain(200, "null"),
    "a list": plain(200, "[]"),
    "no result": plain(200, '{"jsonrpc": "2.0", "id": 1}'),
    "half": half,
    "cut": cut,
    "not packed": not_packed,
    "of another": of_another,
}


@dataclass
class RpcProxy:
    """`fault` of each request's method; None: it passes. `passes_on`: the error comes after the chain got
    the transaction, not in its place."""

    target_port: int
    port: int = 0
    fault: Callable[[str], Fault | None] = lambda _: None
    passes_on: bool = False
    asked: int = 0
    erred: int = 0
    _client: aiohttp.ClientSession = field(init=False)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        asked = await request.read()
        method = str(json.loads(asked)["method"])
        self.asked += 1
        fault = self.fault(method)
        reaches = fault is None or self.passes_on or method != SENDING
        there = await self._ask(asked) if reaches else b'{"jsonrpc": "2.0"}'
        if fault is None:
            return web.Response(body=there, content_type="application/json")
        self.erred += 1
        return await fault(request, asked, there)

    async def _ask(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json"}
        url = f"http://127.0.0.1:{self.target_port}"
        async with self._client.post(url, data=body, headers=headers) as response:
            return await response.read()


@contextlib.asynccontextmanager
async def rpc_proxy(target_port: int) -> AsyncIterator[RpcProxy]:
    """A proxy on a free port of 127.0.0.1 that passes everything until told otherwise."""
    proxy = RpcProxy(target_port)
    app = web.Application(client_max_size=2**24)
    app.router.add_post("/", proxy.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    async with aiohttp.ClientSession() as proxy._client:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        proxy.port = runner.addresses[0][1]
        try:
            yield proxy
        finally:
            await runner.cleanup()
