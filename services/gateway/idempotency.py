"""Idempotency-Key on every POST outside `/v1`: the same key and body get the same answer; knows no route.

A key belongs to one credential and one route. Refusals are not kept: they had no effect, so the key stays
free. A try that was interrupted is taken over by the next (at once when it failed, after `TAKE_OVER_S`
when the gateway died) with the command id of the first, so that its effect on the log stays single.
"""

import hashlib
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4, uuid5

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from ulid import ULID

from events.kernel import Rejected
from services.credentials import Principal
from services.gateway.problems import answered
from services.gateway.refusals import (
    IdempotencyConflict,
    IdempotencyInProgress,
    InvalidIdempotencyKey,
    Problem,
    RemoteRefusal,
)

TAKE_OVER_S = 30
_INTERRUPTED = 0
"""Status of a key whose first try ended without anybody knowing its effect: the next try finishes that
work.
"""
_KEY = re.compile(r"[\x21-\x7e]{1,128}")
_NAMESPACE = UUID("7d5a6f0e-4b1c-5a55-9a0e-0a3f5f8a8d10")


@dataclass(frozen=True)
class Attempt:
    """`command_id` is the same for every try under one key; `ulid` is a new aggregate's id, derived from
    it.
    """

    command_id: str
    at_unix_ms: int

    @property
    def ulid(self) -> str:
        tail = hashlib.sha256(self.command_id.encode()).digest()[:10]
        return str(ULID(self.at_unix_ms.to_bytes(6, "big") + tail)).lower()


@dataclass(frozen=True)
class Answer:
    """What a command answers. `kept` replaces `body` in replays, for what may be shown only once."""

    body: dict[str, Any]
    status: int = 200
    kept: dict[str, Any] | None = None


Act = Callable[[Attempt], Awaitable[Answer]]


class Idempotency:
    """The idempotency_keys table (Alembic owns it)."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def once(self, request: Request, who: Principal, body: BaseModel | None, act: Act) -> Response:
        """Run `act` once for this key. Raises InvalidIdempotencyKey, IdempotencyConflict,
        IdempotencyInProgress.
        """
        given = request.headers.get("idempotency-key")
        if given is None:
            now_ms = round(datetime.now(UTC).timestamp() * 1000)
            answer = await act(Attempt(str(uuid4()), now_ms))
            return JSONResponse(answer.body, answer.status)
        if not _KEY.fullmatch(given):
            raise InvalidIdempotencyKey
        key, route = f"{who.id}:{given}", f"{request.method} {request.url.path}"
        content = {} if body is None else body.model_dump(mode="json")
        body_hash = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        first = await self._claim(key, route, body_hash)
        if isinstance(first, Response):
            return first
        attempt = Attempt(str(uuid5(_NAMESPACE, f"{key}\n{route}")), round(first.timestamp() * 1000))
        try:
            answer = await act(attempt)
        except (Problem, Rejected, RemoteRefusal) as refused:
            await (self._interrupt if answered(refused.code).retryable else self._release)(key, route)
            raise
        except BaseException:
            await self._interrupt(key, route)
            raise
        await self._keep(key, route, answer)
        return JSONResponse(answer.body, answer.status)

    async def _claim(self, key: str, route: str, body_hash: str) -> datetime | Response:
        """The time of the first try when this one may run, or the kept answer."""
        claim = text(
            "INSERT INTO idempotency_keys (key, route, body_hash, created_at)"
            " VALUES (:key, :route, :body_hash, now())"
            " ON CONFLICT (key, route) DO NOTHING RETURNING created_at"
        )
        look = text(
            "SELECT body_hash, status, response, created_at,"
            " created_at < now() - make_interval(secs => :stale) AS stale"
            " FROM idempotency_keys WHERE key = :key AND route = :route FOR UPDATE"
        )
        values = {"key": key, "route": route}
        async with self._engine.begin() as connection:
            made = (await connection.execute(claim, {**values, "body_hash": body_hash})).first()
            if made is not None:
                return made.created_at  # type: ignore[no-any-return]
            row = (await connection.execute(look, {**values, "stale": TAKE_OVER_S})).first()
        if row is None:
            raise IdempotencyInProgress
        if row.body_hash != body_hash:
            raise IdempotencyConflict
        if row.status == _INTERRUPTED:
            return row.created_at  # type: ignore[no-any-return]
        if row.status is not None:
            return JSONResponse(row.response, row.status, {"idempotent-replayed": "true"})
        if not row.stale:
            raise IdempotencyInProgress(headers={"retry-after": "1"})
        return row.created_at  # type: ignore[no-any-return]

    async def _keep(self, key: str, route: str, answer: Answer) -> None:
        statement = text(
            "UPDATE idempotency_keys SET status = :status, response = cast(:response AS jsonb)"
            " WHERE key = :key AND route = :route"
        )
        kept = json.dumps(answer.body if answer.kept is None else answer.kept)
        values = {"key": key, "route": route, "status": answer.status, "response": kept}
        async with self._engine.begin() as connection:
            await connection.execute(statement, values)

    async def _interrupt(self, key: str, route: str) -> None:
        statement = text(
            "UPDATE idempotency_keys SET status = :status"
            " WHERE key = :key AND route = :route AND status IS NULL"
        )
        async with self._engine.begin() as connection:
            await connection.execute(statement, {"key": key, "route": route, "status": _INTERRUPTED})

    async def _release(self, key: str, route: str) -> None:
        statement = text(
            "DELETE FROM idempotency_keys WHERE key = :key AND route = :route AND coalesce(status, 0) = 0"
        )
        async with self._engine.begin() as connection:
            await connection.execute(statement, {"key": key, "route": route})
