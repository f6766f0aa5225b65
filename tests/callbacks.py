"""Somebody who is called back: answers every POST with 200 and keeps what he was told. Knows no sender."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass
class Received:
    """`bodies` in the order in which they came, each with its headers in lower case."""

    url: str
    bodies: list[tuple[dict[str, str], Any]] = field(default_factory=list)


@contextlib.asynccontextmanager
async def received() -> AsyncIterator[Received]:
    """On a free port."""
    found = Received("")

    async def take(request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        found.bodies.append((headers, await request.json()))
        return web.json_response({"received": True})

    app = web.Application()
    app.router.add_post("/{path:.*}", take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield found
    finally:
        await runner.cleanup()
