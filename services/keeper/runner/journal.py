"""What the runner has written down, in PostgreSQL: workflows, executions, and what became of every node.

A node's row is written once; whoever comes second is given what stands there. The end of an execution is
written with its last node, the trigger with the beginning, so that an execution costs one commit per node
at most. Decides nothing and runs nothing.
"""

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.keeper.runner.graph import Ending

Status = Literal["running", "success", "error", "cancelled"]
LOCK_WAIT_S = 2.0
EXECUTION = (
    "execution_id, workflow_id, content_hash, input_hash, input, status, output, error,"
    " started_unix_ms, ended_unix_ms"
)
NODE = (
    "node_id, iteration, node_name, node_type, ending, input, output, error, transaction_hash, chain_id,"
    " started_unix_ms, ended_unix_ms"
)

NODE_VALUES = (
    "execution_id", "node_id", "iteration", "name", "type", "ending", "node_input", "output", "error",
    "transaction", "chain_id", "node_started", "ended",
)  # fmt: skip
OVER = (
    "UPDATE runner_executions SET status = :end_status, output = :end_output, error = :end_error,"
    " ended_unix_ms = :end_at WHERE execution_id = :execution_id AND status = 'running'"
)
BEGIN = (
    "WITH made AS (INSERT INTO runner_executions (execution_id, workflow_id, content_hash, idempotency_key,"
    " input_hash, input, status, started_unix_ms) VALUES (:execution_id, :workflow_id, :content_hash, :key,"
    " :input_hash, :input, 'running', :started)"
    " ON CONFLICT (workflow_id, idempotency_key) DO NOTHING RETURNING execution_id),"
    " triggered AS (INSERT INTO runner_nodes (execution_id, node_id, iteration, node_name, node_type, ending,"
    " input, output, started_unix_ms, ended_unix_ms) SELECT execution_id, :node_id, :iteration, :name, :type,"
    " :ending, :node_input, :output, :node_started, :ended FROM made)"
    " SELECT execution_id FROM made"
)


class Busy(Exception):
    """Somebody else is about to begin an execution with the same key; ask again in a moment."""


@dataclass(frozen=True)
class Begun:
    """An execution. `output` and `error` once it has ended."""

    execution_id: str
    workflow_id: str
    content_hash: str
    input_hash: str
    input: Mapping[str, Any]
    status: Status
    started_unix_ms: int
    output: Any = None
    error: str | None = None
    ended_unix_ms: int | None = None


@dataclass(frozen=True)
class Entry:
    """What became of a node. `iteration`: "" at the top level, "2" in a loop, "2/0" in a loop in a loop."""

    node_id: str
    iteration: str
    name: str
    type: str
    ending: Ending
    input: Any
    output: Any
    error: str | None
    transaction: str | None
    chain_id: int | None
    started_unix_ms: int
    ended_unix_ms: int


@dataclass(frozen=True)
class End:
    status: Status
    output: Any
    error: str | None
    at_unix_ms: int


def input_hash(given: Mapping[str, Any]) -> str:
    """SHA-256, hex. Raises ValueError for what JSON can't say."""
    said = json.dumps(given, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(said.encode()).hexdigest()


@dataclass(frozen=True)
class Journal:
    engine: AsyncEngine

    async def keep(
        self, workflow_id: str, name: str, content_hash: str, definition: Mapping[str, Any]
    ) -> None:
        """The newest content of a workflow; older ones stay for the executions that began with them."""
        async with self.engine.begin() as connection:
            await connection.execute(
                text(
                    "INSERT INTO runner_workflows (workflow_id, content_hash, name, definition)"
                    " VALUES (:workflow_id, :content_hash, :name, :definition)"
                    " ON CONFLICT (workflow_id, content_hash) DO UPDATE SET ensured_at = clock_timestamp()"
                ),
                {
                    "workflow_id": workflow_id,
                    "content_hash": content_hash,
                    "name": name,
                    "definition": _json(definition),
                },
            )

    async def remove(self, workflow_id: str) -> bool:
        """False when an execution began with it."""
        try:
            async with self.engine.begin() as connection:
                await connection.execute(
                    text("DELETE FROM runner_workflows WHERE workflow_id = :id"), {"id": workflow_id}
                )
        except IntegrityError:
            return False
        return True

    async def newest(self, workflow_id: str) -> tuple[str, Any] | None:
        """The content hash and definition that a new execution begins with."""
        async with self.engine.connect() as connection:
            found = await connection.execute(
                text(
                    "SELECT content_hash, definition FROM runner_workflows WHERE workflow_id = :workflow_id"
                    " ORDER BY ensured_at DESC LIMIT 1"
                ),
                {"workflow_id": workflow_id},
            )
            row = found.one_or_none()
        return row and (row.content_hash, json.loads(row.definition))

    async def definition(self, workflow_id: str, content_hash: str) -> Any:
        async with self.engine.connect() as connection:
            found = await connection.execute(
                text(
                    "SELECT definition FROM runner_workflows"
                    " WHERE workflow_id = :workflow_id AND content_hash = :content_hash"
                ),
                {"workflow_id": workflow_id, "content_hash": content_hash},
            )
            return json.loads(found.scalar_one())

    async def begin(self, new: Begun, key: str, trigger: Entry) -> tuple[Begun, bool]:
        """Write an execution down, or the one that has its key already; True: it is this one. Raises Busy."""
        values = {
            "execution_id": new.execution_id,
            "workflow_id": new.workflow_id,
            "content_hash": new.content_hash,
            "key": key,
            "input_hash": new.input_hash,
            "input": _json(new.input),
            "started": new.started_unix_ms,
        }
        try:
            async with asyncio.timeout(LOCK_WAIT_S), self._at_once() as connection:
                made = await connection.execute(text(BEGIN), values | _values(new.execution_id, trigger))
                if made.one_or_none() is not None:
                    return new, True
                found = await connection.execute(
                    text(
                        f"SELECT {EXECUTION} FROM runner_executions"
                        " WHERE workflow_id = :workflow_id AND idempotency_key = :key"
                    ),
                    values,
                )
                return _begun(found.one()), False
        except TimeoutError as locked:
            raise Busy(key) from locked

    async def record(self, execution_id: str, entries: Sequence[Entry], end: End | None = None) -> None:
        """What became of some nodes, and of the whole when it is over; what stands there already stays."""
        over = {} if end is None else _end(execution_id, end)
        rows = {
            f"{name}_{number}": value
            for number, entry in enumerate(entries)
            for name, value in _values(execution_id, entry).items()
        }
        statement = _keep(len(entries)) if entries else OVER
        if entries and over:
            statement = f"WITH kept AS ({statement}) {OVER}"
        async with self._at_once() as connection:
            await connection.execute(text(statement), rows | over)

    @contextlib.asynccontextmanager
    async def _at_once(self) -> AsyncIterator[AsyncConnection]:
        """Every statement is a transaction of its own."""
        async with self.engine.connect() as connection:
            yield await connection.execution_options(isolation_level="AUTOCOMMIT")

    async def execution(self, execution_id: str) -> Begun | None:
        found = await self._executions("execution_id = :id", id=execution_id)
        return found[0] if found else None

    async def executions(self, workflow_id: str) -> list[Begun]:
        """Newest first."""
        return await self._executions("workflow_id = :id", id=workflow_id)

    async def unfinished(self) -> list[Begun]:
        return await self._executions("status = 'running'")

    async def entries(self, *execution_ids: str) -> dict[str, list[Entry]]:
        """By execution, in the order in which they were written."""
        kept: dict[str, list[Entry]] = {execution_id: [] for execution_id in execution_ids}
        async with self.engine.connect() as connection:
            rows = await connection.execute(
                text(
                    f"SELECT execution_id, {NODE} FROM runner_nodes"
                    " WHERE execution_id = ANY(:ids) ORDER BY number"
                ),
                {"ids": list(execution_ids)},
            )
            for row in rows:
                kept[row.execution_id].append(_entry(row))
        return kept

    async def _executions(self, condition: str, **values: Any) -> list[Begun]:
        async with self.engine.connect() as connection:
            rows = await connection.execute(
                text(f"SELECT {EXECUTION} FROM runner_executions WHERE {condition} ORDER BY number DESC"),
                values,
            )
            return [_begun(row) for row in rows]


def _values(execution_id: str, entry: Entry) -> dict[str, Any]:
    return {
        "execution_id": execution_id,
        "node_id": entry.node_id,
        "iteration": entry.iteration,
        "name": entry.name,
        "type": entry.type,
        "ending": entry.ending.value,
        "node_input": _json(entry.input),
        "output": _json(entry.output),
        "error": _plain(entry.error),
        "transaction": entry.transaction,
        "chain_id": entry.chain_id,
        "node_started": entry.started_unix_ms,
        "ended": entry.ended_unix_ms,
    }


@cache
def _keep(entries: int) -> str:
    """One statement for so many nodes, so that they need no transaction around them."""
    each = (f"({', '.join(f':{name}_{number}' for name in NODE_VALUES)})" for number in range(entries))
    return f"INSERT INTO runner_nodes (execution_id, {NODE}) VALUES {', '.join(each)} ON CONFLICT DO NOTHING"


def _end(execution_id: str, end: End) -> dict[str, Any]:
    return {
        "execution_id": execution_id,
        "end_status": end.status,
        "end_output": _json(end.output),
        "end_error": _plain(end.error),
        "end_at": end.at_unix_ms,
    }


def _begun(row: Any) -> Begun:
    return Begun(
        row.execution_id,
        row.workflow_id,
        row.content_hash,
        row.input_hash,
        json.loads(row.input),
        row.status,
        row.started_unix_ms,
        None if row.output is None else json.loads(row.output),
        row.error,
        row.ended_unix_ms,
    )


def _entry(row: Any) -> Entry:
    return Entry(
        row.node_id,
        row.iteration,
        row.node_name,
        row.node_type,
        Ending(row.ending),
        json.loads(row.input),
        json.loads(row.output),
        row.error,
        row.transaction_hash,
        row.chain_id,
        row.started_unix_ms,
        row.ended_unix_ms,
    )


def _json(value: Any) -> str:
    """With all but ASCII escaped: PostgreSQL's texts take no zero and no half of a pair."""
    return json.dumps(value)


def _plain(error: str | None) -> str | None:
    return error and error.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()
