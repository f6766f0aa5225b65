"""KeeperHub's JSON of executions and their logs as the port's values. Knows no transport."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from services.keeper.backend import BackendAway, NodeLog, NodeState, RunState, RunStatus, SentTransaction

RUN_STATES: dict[str, RunState] = {
    "pending": "pending",
    "running": "running",
    "success": "success",
    "completed": "success",
    "error": "error",
    "failed": "error",
    "system_error": "error",
    "cancelled": "cancelled",
}
"""`unconfirmed`, and a word that is not known, is neither success nor failure: it has not ended for us."""
NODE_STATES: dict[str, NodeState] = {**RUN_STATES, "skipped": "skipped"}


def run_status(execution_id: str, found: Mapping[str, Any]) -> RunStatus:
    status = found.get("status")
    if not isinstance(status, str):
        raise BackendAway(f"an answer about {execution_id} has no status")
    state = RUN_STATES.get(status, "running")
    error = found.get("error")
    return RunStatus(
        execution_id,
        state,
        tuple(_transactions(found.get("transactionHashes"))),
        found.get("output") if state == "success" else None,
        str(error) if error and state != "success" else None,
    )


def _transactions(entries: Any) -> Iterable[SentTransaction]:
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, Mapping) and isinstance(entry.get("hash"), str):
            yield SentTransaction(
                entry["hash"],
                str(entry.get("nodeId", "")),
                str(entry.get("nodeName", "")),
                _whole(entry.get("chainId")),
                _whole(entry.get("iterationIndex")),
            )


def node_log(entry: Mapping[str, Any]) -> NodeLog:
    started = unix_ms(entry.get("startedAt")) or unix_ms(entry.get("timestamp")) or 0
    error = entry.get("error")
    return NodeLog(
        str(entry.get("nodeId", "")),
        str(entry.get("nodeName", "")),
        str(entry.get("nodeType", "")),
        NODE_STATES.get(str(entry.get("status")), "running"),
        started,
        unix_ms(entry.get("completedAt")),
        entry.get("input"),
        entry.get("output"),
        str(error) if error else None,
        _whole(entry.get("iterationIndex")),
    )


def unix_ms(iso: Any) -> int | None:
    """Without an offset it is UTC."""
    if not isinstance(iso, str):
        return None
    try:
        at = datetime.fromisoformat(iso)
    except ValueError:
        return None
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)


def _whole(value: Any) -> int | None:
    """A chain id may come as a text."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    try:
        return int(value)
    except ValueError:
        return None
