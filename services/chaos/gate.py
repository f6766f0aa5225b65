"""A gate between one worker and its mesh node: the node's loopback API again, with trouble in between.

Speaks /send, /recv, /topology and whatever else the node has; knows nothing of frames. Every message leaves
through its sender's gate, so a ring with a gate before each node has trouble on every link, both ways.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import ClientError, ClientSession, ClientTimeout, web

from services.chaos.weather import CLEAR, Copy, Weather, fate

MAX_BODY_BYTES = 32 * 1024 * 1024
MOST_ON_THE_WAY = 4096
PASSED_ON = ("Authorization", "Content-Type", "Origin", "X-Destination-Peer-Id")
HANDED_BACK = ("X-Sent-Bytes", "Retry-After")
UPSTREAM_TIMEOUT_S = 60.0


class Gate:
    """One node's gate. Set `weather`, `cut`, `deaf_to` and `upstream` at any time; `gate` makes one.

    `count`: `sent` (messages the worker handed over), `passed` (copies the node took), `lost`, `duplicated`,
    `held`, `corrupted`, `cut`, `refused` (copies the node did not take), `received`.
    """

    def __init__(self, upstream: str, seed: int, weather: Weather) -> None:
        self.upstream = upstream
        """The node's own API."""
        self.url = ""
        self.weather = weather
        self.cut: set[str] = set()
        """Peers to whom nothing gets out; "*" for all."""
        self.deaf_to: set[str] = set()
        """Peers from whom nothing comes in; "*" for all."""
        self.count: Counter[str] = Counter()
        self._seed = seed
        self._chances: dict[str, random.Random] = {}
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._on_the_way: set[asyncio.Task[None]] = set()
        self._client = ClientSession(timeout=ClientTimeout(total=UPSTREAM_TIMEOUT_S))

    def stall(self) -> None:
        """The worker hears nothing, and its node keeps what comes, until `resume`."""
        self._flowing.clear()

    def resume(self) -> None:
        self._flowing.set()

    @property
    def on_the_way(self) -> int:
        """Copies that are still under way."""
        return len(self._on_the_way)

    async def close(self) -> None:
        for task in self._on_the_way:
            task.cancel()
        await asyncio.gather(*self._on_the_way, return_exceptions=True)
        await self._client.close()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Every call of the worker."""
        if "Origin" in request.headers:
            return web.Response(status=403, text="this gate serves a worker, not a web page")
        try:
            if request.path == "/send" and request.method == "POST":
                return await self._send(request)
            if request.path == "/recv":
                return await self._receive(request)
            return await self._relay(request, b"")
        except (ClientError, TimeoutError, OSError) as failure:
            return web.Response(status=502, text=f"the mesh node does not answer: {failure!r}")

    async def _send(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        to = request.headers.get("X-Destination-Peer-Id", "").lower()
        self.count["sent"] += 1
        taken = web.Response(headers={"X-Sent-Bytes": str(len(body))})
        if to in self.cut or "*" in self.cut:
            self.count["cut"] += 1
            return taken
        chance = self._chances.setdefault(to, random.Random(f"{self._seed} {to}"))
        copies = fate(self.weather, chance, len(body))
        self.count["lost"] += not copies
        self.count["duplicated"] += len(copies) > 1
        if copies == (Copy(),):
            return await self._relay(request, body)
        if len(self._on_the_way) >= MOST_ON_THE_WAY:
            return web.Response(status=503, text="too many messages are under way")
        headers = _passed_on(request)
        for copy in copies:
            self.count["held"] += copy.held
            self.count["corrupted"] += bool(copy.flips)
            task = asyncio.create_task(self._carry(copy, body, headers))
            self._on_the_way.add(task)
            task.add_done_callback(self._on_the_way.discard)
        return taken

    async def _carry(self, copy: Copy, body: bytes, headers: dict[str, str]) -> None:
        await asyncio.sleep(copy.delay_s)
        try:
            url, damaged = f"{self.upstream}/send", copy.apply(body)
            async with self._client.post(url, data=damaged, headers=headers) as answer:
                self.count["passed" if answer.status == 200 else "refused"] += 1
        except (ClientError, TimeoutError, OSError):
            self.count["refused"] += 1

    async def _receive(self, request: web.Request) -> web.StreamResponse:
        await self._flowing.wait()
        url = f"{self.upstream}{request.path_qs}"
        async with self._client.get(url, headers=_passed_on(request)) as answer:
            body = await answer.read()
            sender = answer.headers.get("X-From-Peer-Id", "")
            if answer.status == 200:
                self.count["received"] += 1
                if sender.lower() in self.deaf_to or "*" in self.deaf_to:
                    self.count["cut"] += 1
                    return web.Response(status=204)
            headers = {"X-From-Peer-Id": sender} if sender else {}
            return web.Response(status=answer.status, body=body, headers=headers)

    async def _relay(self, request: web.Request, body: bytes) -> web.StreamResponse:
        url = f"{self.upstream}{request.path_qs}"
        async with self._client.request(
            request.method, url, data=body or None, headers=_passed_on(request)
        ) as answer:
            if request.path == "/send":
                self.count["passed" if answer.status == 200 else "refused"] += 1
            kept = {name: answer.headers[name] for name in HANDED_BACK if name in answer.headers}
            return web.Response(
                status=answer.status, body=await answer.read(), content_type=answer.content_type, headers=kept
            )


def _passed_on(request: web.Request) -> dict[str, str]:
    return {name: request.headers[name] for name in PASSED_ON if name in request.headers}


@asynccontextmanager
async def gate(upstream: str, *, seed: int = 0, weather: Weather = CLEAR) -> AsyncIterator[Gate]:
    """A gate before the node whose API is `upstream`, on a free loopback port, closed afterwards."""
    opened = Gate(upstream, seed, weather)
    application = web.Application(client_max_size=MAX_BODY_BYTES)
    application.router.add_route("*", "/{path:.*}", opened.handle)
    runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        opened.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield opened
    finally:
        opened.resume()
        await runner.cleanup()
        await opened.close()
