"""Sends one signed callback by hand and writes the attempt down. Knows no command line."""

import secrets
import time
from dataclasses import dataclass, field

import httpx

from services.keeper.deliveries import Deliveries, Delivery
from services.keeper.hook_secret import HookSecret
from services.keeper.signed_headers import signed_headers

CALLER = "computepool"
TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Sent:
    """`status` None: nobody answered, and `error` says why."""

    status: int | None
    answer: str
    error: str | None
    ms: int

    @property
    def taken(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


@dataclass(frozen=True)
class HandSender:
    """Every attempt once, with a fresh time and signature; a receiver that is away raises nothing."""

    http: httpx.AsyncClient
    secret: HookSecret = field(repr=False)
    kept: Deliveries

    async def new(self, url: str, body: bytes) -> tuple[str, Sent]:
        """A delivery that no run made; its id, and how it went."""
        delivery = f"d-{secrets.token_hex(16)}"
        return delivery, await self.send(url, delivery, CALLER, body)

    async def again(self, one: Delivery) -> Sent:
        return await self.send(one.url, one.delivery, one.execution, one.body)

    async def send(self, url: str, delivery: str, execution: str, body: bytes) -> Sent:
        """Written down as an attempt of this delivery."""
        sent = await self._post(url, delivery, execution, body)
        failed = sent.error or (None if sent.taken else f"HTTP {sent.status}: {sent.answer}")
        await self.kept.attempted(delivery, execution, url, body, sent.status, failed, sent.ms)
        return sent

    async def forwarded(self, url: str, one: Delivery) -> Sent:
        """To another address than its own, which counts for nothing."""
        return await self._post(url, one.delivery, one.execution, one.body)

    async def _post(self, url: str, delivery: str, execution: str, body: bytes) -> Sent:
        headers = signed_headers(
            self.secret.key,
            self.secret.key_id,
            url=url,
            caller=CALLER,
            delivery=delivery,
            execution=execution,
            now_unix_s=int(time.time()),
            body=body,
        )
        started = time.monotonic()
        try:
            answer = await self.http.post(
                url, content=body, headers={**headers, "Content-Type": "application/json"}, timeout=TIMEOUT_S
            )
            status, text, error = answer.status_code, answer.text[:2000], None
        except (httpx.HTTPError, httpx.InvalidURL) as away:
            status, text, error = None, "", str(away) or type(away).__name__
        return Sent(status, text, error, round((time.monotonic() - started) * 1000))
