"""A client with a wallet: buys a session, asks in it, gives the rest back. Knows the gateway's routes alone.

Used by `computepool pay | chat` and the demo. When a session's money is used up, the next question buys
another one, within the same limits.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from services.gateway_rest import checked
from services.payer import Payer

BUSY_S, BUSY_PAUSE_S = 10.0, 0.1


class AnswerFailed(Exception):
    """answer_failed: the answer ended early; the message holds the server's code and text."""

    code = "answer_failed"
    remedy = "Ask again: nothing is charged beyond the seconds that were served."


@dataclass
class Spoken:
    """How an answer ended."""

    text: str = ""
    finish_reason: str = ""
    tokens: int = 0
    transcript: dict[str, Any] | None = None
    """When `transcript=True` was asked for: what proves the answer, as docs/api.md has it."""


@dataclass
class Agent:
    """`key`: a session's key or an API key ("": none yet). `payer` None: only what needs no payment.

    `budget_micro` and `ttl_s` of every session it buys; None: as the gateway proposes.
    """

    gateway_url: str
    model: str
    payer: Payer | None = None
    key: str = ""
    budget_micro: int | None = None
    ttl_s: int | None = None
    session_id: str | None = None
    bought: list[dict[str, Any]] = field(default_factory=list)

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.gateway_url, timeout=180, trust_env=False)

    async def buy(self) -> dict[str, Any]:
        """A paid session: its id, key and what was paid. Raises GatewayRefused and what `Payer` raises."""
        body: dict[str, Any] = {"model": self.model}
        if self.budget_micro is not None:
            body["budget_micro"] = self.budget_micro
        if self.ttl_s is not None:
            body["ttl_s"] = self.ttl_s
        async with self.client() as client:
            if self.payer is None:
                answer = await client.post("/sessions", json=body)
            else:
                answer = await self.payer.request(client, "POST", "/sessions", json=body)
        made = checked(answer)
        self.session_id, self.key = str(made["session_id"]), str(made["session_key"])
        self.bought.append(made)
        return made

    async def ask(
        self, messages: list[dict[str, str]], spoken: Spoken, **parameters: Any
    ) -> AsyncIterator[str]:
        """The answer's pieces; `spoken` is filled on the way. Buys a session first when it must.

        Raises AnswerFailed, GatewayRefused and what `Payer` raises.
        """
        body = {
            "model": self.model,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
            **parameters,
        }
        if not self.key and self.payer is not None:
            await self.buy()
        async with self.client() as client:
            answer = await self._send(client, body)
            if answer.status_code == 402 and self.payer is not None:
                await answer.aclose()
                await self.buy()
                answer = await self._send(client, body)
            try:
                if answer.is_error:
                    await answer.aread()
                    checked(answer)
                async for piece in _pieces(answer, spoken):
                    yield piece
            finally:
                await answer.aclose()

    async def _send(self, client: httpx.AsyncClient, body: dict[str, Any]) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        if self.session_id is not None:
            headers["x-computepool-session"] = self.session_id
        asked = client.build_request("POST", "/v1/chat/completions", json=body, headers=headers)
        return await client.send(asked, stream=True)

    async def settle(self) -> None:
        """Close the session: its money stops for good and the rest goes back. Raises GatewayRefused.

        The last token comes a moment before the log knows that its answer has ended, so a session that is
        still busy is asked again.
        """
        if self.session_id is None:
            return
        headers = {"Authorization": f"Bearer {self.key}"}
        async with self.client() as client:
            deadline = time.monotonic() + BUSY_S
            while True:
                answer = await client.post(f"/sessions/{self.session_id}/settle", headers=headers)
                if not _is_busy(answer) or time.monotonic() > deadline:
                    break
                await asyncio.sleep(BUSY_PAUSE_S)
            checked(answer)
        self.session_id, self.key = None, ""


def _is_busy(answer: httpx.Response) -> bool:
    return answer.status_code == httpx.codes.CONFLICT and answer.json().get("code") == "session_busy"


async def _pieces(answer: httpx.Response, spoken: Spoken) -> AsyncIterator[str]:
    """Source: OpenAI's server-sent chunks. A stream without its end is a failure."""
    done = False
    async for line in answer.aiter_lines():
        if not line.startswith("data: "):
            continue
        if line == "data: [DONE]":
            done = True
            break
        chunk = json.loads(line.removeprefix("data: "))
        if "error" in chunk:
            error = chunk["error"]
            raise AnswerFailed(f"{error.get('code')}: {error.get('message')}")
        if chunk.get("usage"):
            spoken.tokens = int(chunk["usage"]["completion_tokens"])
        spoken.transcript = (chunk.get("computepool") or {}).get("transcript", spoken.transcript)
        for choice in chunk.get("choices", ()):
            spoken.finish_reason = choice.get("finish_reason") or spoken.finish_reason
            piece = (choice.get("delta") or {}).get("content") or ""
            if piece:
                spoken.text += piece
                yield piece
    if not done:
        raise AnswerFailed("the connection ended before the answer did")
