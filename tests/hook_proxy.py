"""What stands between a runner and the webhook and does to callbacks whatever a network or a thief can do.

Knows no story and asserts nothing: `statuses` says what the webhook answered, by what was sent.
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import httpx
from aiohttp import web

from services.keeper.hook_secret import HookSecret, key_id_of
from services.keeper.signed_headers import signed_headers

HOUR_S = 3600
THIEF = b"t" * 64


@dataclass(frozen=True)
class Sent:
    """A callback as the runner sent it."""

    headers: dict[str, str]
    body: bytes


Fault = Callable[["HookProxy", Sent], Awaitable[int | None]]
"""What becomes of a callback; the status for the runner, None: the connection breaks."""


@dataclass
class HookProxy:
    """`target`: the webhook's URL. `held`: callbacks that were not passed on yet."""

    target: str
    secret: HookSecret
    url: str = ""
    fault: Fault = field(default_factory=lambda: passed_on)
    held: list[Sent] = field(default_factory=list)
    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    seen: int = 0
    _http: httpx.AsyncClient = field(default_factory=lambda: httpx.AsyncClient(trust_env=False, timeout=30))

    async def forward(self, what: str, sent: Sent) -> int:
        answer = await self._http.post(self.target, content=sent.body, headers=sent.headers)
        self.statuses[what, answer.status_code] += 1
        return answer.status_code

    def signed(self, sent: Sent, *, key: bytes | None = None, ago_s: int = 0) -> Sent:
        """The same callback as it is with another key or signed some time ago."""
        key = key or self.secret.key
        headers = signed_headers(
            key,
            key_id_of(key),
            url=self.target,
            caller=sent.headers["X-KeeperHub-Caller"],
            delivery=sent.headers["X-KeeperHub-Delivery"],
            execution=sent.headers["X-KeeperHub-Execution"],
            now_unix_s=int(time.time()) - ago_s,
            body=sent.body,
        )
        return Sent({**sent.headers, **headers}, sent.body)

    async def _handle(self, request: web.Request) -> web.Response:
        named = {"Content-Type", "Authorization"}
        headers = {
            name: value
            for name, value in request.headers.items()
            if name in named or name.lower().startswith("x-keeperhub-")
        }
        self.seen += 1
        status = await self.fault(self, Sent(headers, await request.read()))
        if status is None:
            assert request.transport is not None
            request.transport.close()
        return web.json_response({"received": True}, status=status or 503)


async def passed_on(proxy: HookProxy, sent: Sent) -> int:
    return await proxy.forward("true", sent)


async def dropped(proxy: HookProxy, _: Sent) -> int:
    """The runner believes that it arrived."""
    return 200


async def switched_off(proxy: HookProxy, _: Sent) -> None:
    """Nobody answers, however often it is tried."""


async def held_back(proxy: HookProxy, sent: Sent) -> int:
    proxy.held.append(sent)
    return 200


async def ten_times(proxy: HookProxy, sent: Sent) -> int:
    return (await asyncio.gather(*(proxy.forward("true", sent) for _ in range(10))))[0]


async def forged_first(proxy: HookProxy, sent: Sent) -> int:
    """Forgeries come before the true one, and a replay behind it."""
    lie = _lie(sent)
    await proxy.forward("wrong key", proxy.signed(Sent(sent.headers, lie), key=THIEF))
    await proxy.forward("old timestamp", proxy.signed(sent, ago_s=HOUR_S))
    await proxy.forward("altered body", Sent(sent.headers, lie))
    replayed = {**sent.headers, "X-KeeperHub-Delivery": "d-another"}
    await proxy.forward("replayed under another delivery", Sent(replayed, sent.body))
    status = await proxy.forward("true", sent)
    await proxy.forward("replayed", sent)
    return status


async def unsigned_lie_first(proxy: HookProxy, sent: Sent) -> int:
    """As from a sender that cannot sign, and from a thief who has read the run's capability before it."""
    bearer = {name: sent.headers[name] for name in ("Authorization", "Content-Type")}
    await proxy.forward("lie by capability", Sent(bearer, _lie(sent)))
    return await proxy.forward("true by capability", Sent(bearer, sent.body))


def _lie(sent: Sent) -> bytes:
    """Another transaction."""
    lie = sent.body.replace(b'"tx_hash":"0x', b'"tx_hash":"0x00')
    assert lie != sent.body
    return lie


@contextlib.asynccontextmanager
async def hook_proxy(secret: HookSecret) -> AsyncIterator[HookProxy]:
    """On a free port; `target` is set by who starts the webhook, which has to know this proxy's address."""
    proxy = HookProxy("", secret)
    app = web.Application()
    app.router.add_post("/{path:.*}", proxy._handle)
    served = web.AppRunner(app)
    await served.setup()
    await web.TCPSite(served, "127.0.0.1", 0).start()
    host, port = served.addresses[0][:2]
    proxy.url = f"http://{host}:{port}"
    try:
        yield proxy
    finally:
        await served.cleanup()
        await proxy._http.aclose()
