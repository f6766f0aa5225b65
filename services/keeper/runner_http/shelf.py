"""What the embedded runner has written down and its port doesn't say: workflows with their content, and what
an execution was asked. Reads its tables and changes nothing.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

WORKFLOWS = (
    "SELECT DISTINCT ON (workflow_id) workflow_id, name, definition, ensured_at,"
    " min(ensured_at) OVER (PARTITION BY workflow_id) AS made_at FROM runner_workflows"
)
NEWEST = " ORDER BY workflow_id, ensured_at DESC"
RECORD = "SELECT execution_id, workflow_id, input, started_unix_ms, ended_unix_ms FROM runner_executions"


@dataclass(frozen=True)
class Shelved:
    """A workflow with its newest content, a version 1 export."""

    id: str
    name: str
    definition: Mapping[str, Any]
    made_unix_ms: int
    changed_unix_ms: int


@dataclass(frozen=True)
class Record:
    """An execution, without what became of it."""

    execution_id: str
    workflow_id: str
    input: Mapping[str, Any]
    started_unix_ms: int
    ended_unix_ms: int | None


@dataclass(frozen=True)
class Shelf:
    """Every method raises what the database raises."""

    engine: AsyncEngine

    async def workflows(self) -> list[Shelved]:
        """The oldest first."""
        found = await self._rows(WORKFLOWS + NEWEST)
        return sorted(map(_shelved, found), key=lambda one: (one.made_unix_ms, one.id))

    async def workflow(self, workflow_id: str) -> Shelved | None:
        found = await self._rows(WORKFLOWS + " WHERE workflow_id = :id" + NEWEST, id=workflow_id)
        return _shelved(found[0]) if found else None

    async def record(self, execution_id: str) -> Record | None:
        found = await self._rows(f"{RECORD} WHERE execution_id = :id", id=execution_id)
        return _record(found[0]) if found else None

    async def records(self, workflow_id: str, limit: int) -> list[Record]:
        """The newest first."""
        found = await self._rows(
            f"{RECORD} WHERE workflow_id = :id ORDER BY number DESC LIMIT :limit", id=workflow_id, limit=limit
        )
        return [_record(row) for row in found]

    async def with_key(self, workflow_id: str, key: str) -> str | None:
        """The execution that an idempotency key belongs to."""
        found = await self._rows(
            f"{RECORD} WHERE workflow_id = :id AND idempotency_key = :key", id=workflow_id, key=key
        )
        return found[0].execution_id if found else None

    async def _rows(self, statement: str, **values: Any) -> list[Any]:
        async with self.engine.connect() as connection:
            return list(await connection.execute(text(statement), values))


def _shelved(row: Any) -> Shelved:
    made, changed = (int(at.timestamp() * 1000) for at in (row.made_at, row.ensured_at))
    return Shelved(row.workflow_id, row.name, json.loads(row.definition), made, changed)


def _record(row: Any) -> Record:
    return Record(
        row.execution_id, row.workflow_id, json.loads(row.input), row.started_unix_ms, row.ended_unix_ms
    )
