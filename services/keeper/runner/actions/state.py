"""State Get and State Set: a workflow's own values, kept from one execution to the next. Knows no other
workflow.

A value is JSON of at most 8 KiB, a workflow has at most 100 keys. `expectedVersion` makes a set
conditional. A step that is run again after a crash finds its own value and changes nothing.
"""

import json
import time
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.keeper.runner.actions.step import Means, Result, Step, failure

LONGEST_KEY, MOST_BYTES, MOST_KEYS, MOST_TTL_S = 256, 8 * 1024, 100, 365 * 24 * 3600
LIVE = "(expires_unix_ms IS NULL OR expires_unix_ms > :now)"


async def state_get(step: Step, means: Means) -> Result:
    """`{success, exists, value, version}`."""
    key = step.said("key")
    if not 0 < len(key) <= LONGEST_KEY:
        return _invalid(f"a State key has 1 to {LONGEST_KEY} characters")
    async with means.engine.connect() as connection:
        row = await _row(connection, step, key)
    if row is None:
        return {"success": True, "exists": False, "value": None}
    return {"success": True, "exists": True, "value": json.loads(row.value), "version": row.version}


async def state_set(step: Step, means: Means) -> Result:
    """`{success, created, version}`; a conflict when the version is another one than was expected."""
    key, expected, ttl = step.said("key"), step.said("expectedVersion"), step.said("ttl")
    if not 0 < len(key) <= LONGEST_KEY:
        return _invalid(f"a State key has 1 to {LONGEST_KEY} characters")
    if step.config.get("value") is None:
        return _invalid("State value is required")
    value = json.dumps(_parsed(step.config["value"]))
    if len(value) > MOST_BYTES:
        return failure(f"a State value has at most {MOST_BYTES} bytes", reason="limit")
    if expected and not (expected.isdecimal() and int(expected) > 0):
        return _invalid("expectedVersion must be a positive integer")
    if ttl and not ttl.isdecimal():
        return _invalid("ttl must be a number of seconds")
    now = time.time_ns() // 1_000_000
    values = {
        "workflow_id": step.workflow_id,
        "key": key,
        "value": value,
        "by": step.key,
        "now": now,
        "expires": now + 1000 * min(int(ttl), MOST_TTL_S) if ttl else None,
    }
    async with means.engine.begin() as connection:
        await connection.execute(
            text("SELECT pg_advisory_xact_lock(hashtextextended(:lane, 0))"),
            {"lane": f"state:{step.workflow_id}"},
        )
        row = await _row(connection, step, key)
        if row is not None and row.written_by == step.key:
            return {"success": True, "created": row.version == 1, "version": row.version}
        if expected and (row is None or row.version != int(expected)):
            found = "does not exist" if row is None else f"is at version {row.version}"
            return failure(f"Compare-and-set failed: key {key} {found}", reason="conflict")
        if row is None and await _count(connection, values) >= MOST_KEYS:
            return failure(f"a workflow has at most {MOST_KEYS} State keys", reason="limit")
        version = 1 if row is None else row.version + 1
        await connection.execute(
            text(
                "INSERT INTO runner_state (workflow_id, key, value, version, written_by, expires_unix_ms)"
                " VALUES (:workflow_id, :key, :value, :version, :by, :expires)"
                " ON CONFLICT (workflow_id, key) DO UPDATE SET value = excluded.value,"
                " version = excluded.version, written_by = excluded.written_by,"
                " expires_unix_ms = excluded.expires_unix_ms"
            ),
            {**values, "version": version},
        )
        return {"success": True, "created": row is None, "version": version}


async def _row(connection: AsyncConnection, step: Step, key: str) -> Any:
    found = await connection.execute(
        text(
            "SELECT value, version, written_by FROM runner_state"
            f" WHERE workflow_id = :workflow_id AND key = :key AND {LIVE}"
        ),
        {"workflow_id": step.workflow_id, "key": key, "now": time.time_ns() // 1_000_000},
    )
    return found.one_or_none()


async def _count(connection: AsyncConnection, values: dict[str, Any]) -> int:
    found = await connection.execute(
        text(f"SELECT count(*) FROM runner_state WHERE workflow_id = :workflow_id AND {LIVE}"), values
    )
    return int(found.scalar_one())


def _parsed(value: Any) -> Any:
    """A text that is a JSON object or list is kept as one."""
    if isinstance(value, str) and value.strip()[:1] in ("{", "["):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _invalid(why: str) -> Result:
    return failure(why, reason="invalid")
