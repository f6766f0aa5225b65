"""What was told to callback addresses, with every attempt, so that it can be looked at and sent again.

Sent again are the same bytes under the same delivery id, freshly signed. Knows no run.
"""

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

KEPT_DAYS = 30


@dataclass(frozen=True)
class Attempt:
    """`status` None: nobody answered."""

    attempt: int
    status: int | None
    error: str | None
    ms: int
    at_unix_ms: int


@dataclass(frozen=True)
class Delivery:
    """`attempts`: the oldest first. `outcome`: what the keeper made of it, as far as it has got."""

    number: int
    delivery: str
    execution: str
    url: str
    body: bytes
    created_unix_ms: int
    outcome: str | None
    attempts: tuple[Attempt, ...]

    def said(self, name: str) -> str:
        """A field of the body; "" when it has none."""
        try:
            value = json.loads(self.body)
        except ValueError:
            return ""
        return str(value.get(name, "")) if isinstance(value, dict) else ""


class Deliveries:
    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def attempted(
        self,
        delivery: str,
        execution: str,
        url: str,
        body: bytes,
        status: int | None,
        error: str | None,
        ms: int,
    ) -> None:
        """One more attempt; the first one writes the delivery down."""
        whole = {"delivery": delivery, "execution": execution, "url": url, "body": body}
        attempt = {"delivery": delivery, "status": status, "error": error and error[:500], "ms": ms}
        async with self._engine.begin() as connection:
            await connection.execute(_DELIVERY, whole)
            await connection.execute(_LOCK, {"delivery": delivery})
            await connection.execute(_ATTEMPT, attempt)

    async def newest(self, limit: int) -> list[Delivery]:
        return await self._where("true ORDER BY d.number DESC LIMIT :limit", limit=limit)

    async def after(self, number: int) -> list[Delivery]:
        """Those that were written down behind this one, the oldest first."""
        return await self._where("d.number > :number ORDER BY d.number", number=number)

    async def of(self, delivery: str) -> Delivery | None:
        found = await self._where("d.delivery = :delivery", delivery=delivery)
        return found[0] if found else None

    async def prune(self) -> int:
        """Forget what is older than KEPT_DAYS; how many deliveries."""
        async with self._engine.begin() as connection:
            await connection.execute(text(f"DELETE FROM webhook_attempts WHERE delivery IN ({_OLD})"))
            return (
                await connection.execute(text(f"DELETE FROM webhook_deliveries d WHERE {_AGED}"))
            ).rowcount

    async def _where(self, condition: str, **values: Any) -> list[Delivery]:
        async with self._engine.connect() as connection:
            rows = (await connection.execute(text(f"{_SELECT} WHERE {condition}"), values)).all()
            named = {"deliveries": [row.delivery for row in rows]}
            attempts = (await connection.execute(_ATTEMPTS, named)).all()
        tried: dict[str, list[Attempt]] = {row.delivery: [] for row in rows}
        for one in attempts:
            tried[one.delivery].append(Attempt(one.attempt, one.status, one.error, one.ms, one.at_unix_ms))
        return [
            Delivery(
                row.number,
                row.delivery,
                row.execution,
                row.url,
                bytes(row.body),
                row.created_unix_ms,
                row.outcome,
                tuple(tried[row.delivery]),
            )
            for row in rows
        ]


_DELIVERY = text(
    "INSERT INTO webhook_deliveries (delivery, execution, url, body)"
    " VALUES (:delivery, :execution, :url, :body) ON CONFLICT (delivery) DO NOTHING"
)
_LOCK = text("SELECT 1 FROM webhook_deliveries WHERE delivery = :delivery FOR UPDATE")
_ATTEMPT = text(
    "INSERT INTO webhook_attempts (delivery, attempt, status, error, ms)"
    " SELECT :delivery, count(*) + 1, :status, :error, :ms FROM webhook_attempts WHERE delivery = :delivery"
)
_SELECT = (
    "SELECT d.number, d.delivery, d.execution, d.url, d.body, i.outcome,"
    " (extract(epoch FROM d.created_at) * 1000)::bigint AS created_unix_ms"
    " FROM webhook_deliveries d"
    " LEFT JOIN webhook_inbox i ON i.proof = 'signature' AND i.delivery = d.delivery"
)
_ATTEMPTS = text(
    "SELECT delivery, attempt, status, error, ms, (extract(epoch FROM at) * 1000)::bigint AS at_unix_ms"
    " FROM webhook_attempts WHERE delivery = ANY(:deliveries) ORDER BY attempt"
)
_AGED = f"d.created_at < now() - interval '{KEPT_DAYS} days'"
_OLD = f"SELECT d.delivery FROM webhook_deliveries d WHERE {_AGED}"
