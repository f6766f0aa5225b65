"""One HTTP conversation with KeeperHub: where, with which key, how patiently. Knows no route."""

import time
from collections.abc import Mapping
from typing import Any

import httpx
from pydantic import SecretStr

from services.keeper.hosted.keys import Kind, require, safe_url
from services.keeper.hosted.patience import Lost, Pace, Patience, patiently
from services.keeper.hosted.replies import Reply, seconds

TIMEOUT_S = 30.0


class Line:
    """Raises WrongKeyKind and UnsafeUrl when it is made; `ask` raises BackendRefused and BackendAway."""

    def __init__(self, url: str, key: SecretStr, kind: Kind, patience: Patience, timeout_s: float) -> None:
        self._url = safe_url(url)
        self._key = require(key, kind)
        self._patience = patience
        self._timeout_s = timeout_s
        self._pace = Pace(patience.longest_s)
        self._client = httpx.AsyncClient(trust_env=False, follow_redirects=False)

    async def ask(
        self,
        method: str,
        path: str,
        *,
        json: Mapping[str, Any] | None = None,
        params: Mapping[str, int] | None = None,
        key: str | None = None,
        repeatable: bool = True,
        beyond_s: float = 0.0,
    ) -> Reply:
        """A 2xx reply. `key`: for idempotency; `beyond_s`: how long the server may take by our own wish."""
        headers = {"Authorization": f"Bearer {self._key.get_secret_value()}", "Accept": "application/json"}
        if key is not None:
            headers["Idempotency-Key"] = key

        async def send() -> Reply:
            await self._pace.turn()
            try:
                response = await self._client.request(
                    method,
                    self._url + path,
                    json=json,
                    params=params,
                    headers=headers,
                    timeout=self._timeout_s + beyond_s,
                )
            except httpx.HTTPError as lost:
                raise Lost(f"{type(lost).__name__}: {lost}") from lost
            self._pace.heard(response.headers)
            return reply_of(response)

        return await patiently(send, self._patience, f"{method} {path}", repeatable=repeatable)

    async def close(self) -> None:
        await self._client.aclose()


def reply_of(response: httpx.Response) -> Reply:
    """An HTML page or a redirect is not KeeperHub's answer, whatever its status."""
    headers, now = response.headers, time.time()
    try:
        body, usable = response.json(), True
    except ValueError:
        body, usable = None, response.status_code == 429
    return Reply(
        response.status_code,
        body,
        usable and not response.is_redirect,
        seconds(headers.get("retry-after"), now),
        seconds(headers.get("x-poll-interval-hint"), now),
        headers.get("x-request-id"),
    )
