"""Workflows, runs and node logs in KeeperHub's JSON (KH: docs/api/{workflows,executions}.md). Pure."""

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from services.keeper.backend import NodeLog, RunStatus
from services.keeper.runner.masking import masked
from services.keeper.runner_http.shelf import Record, Shelved

Json = dict[str, Any]


def iso(unix_ms: int | None) -> str | None:
    if unix_ms is None:
        return None
    return (
        datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )


def workflow(one: Shelved) -> Json:
    named = one.definition["workflow"]
    return {
        "id": one.id,
        "name": one.name,
        "description": named.get("description", ""),
        "visibility": "private",
        "enabled": True,
        "nodes": one.definition["nodes"],
        "edges": one.definition["edges"],
        "createdAt": iso(one.made_unix_ms),
        "updatedAt": iso(one.changed_unix_ms),
    }


def transactions(run: RunStatus) -> list[Json]:
    return [
        {
            "hash": one.hash,
            "nodeId": one.node_id,
            "nodeName": one.node_name,
            **({} if one.chain_id is None else {"chainId": one.chain_id, "network": str(one.chain_id)}),
            **({} if one.iteration is None else {"iterationIndex": one.iteration}),
        }
        for one in run.transactions
    ]


def status(run: RunStatus, logs: Sequence[NodeLog], steps: int) -> Json:
    """`logs`: newest first. What a node does is written when it has ended, so none is seen running."""
    done = {entry.node_id for entry in logs if entry.ended_unix_ms is not None}
    failed = next((entry for entry in logs if entry.status == "error"), None)
    last = next((entry for entry in logs if entry.status == "success"), None)
    return {
        "status": run.status,
        "nodeStatuses": [{"nodeId": entry.node_id, "status": entry.status} for entry in reversed(logs)],
        "progress": {
            "totalSteps": steps,
            "completedSteps": len(done),
            "runningSteps": 0,
            "currentNodeId": None,
            "currentNodeName": None,
            "percentage": round(100 * len(done) / steps) if steps else 0,
        },
        "errorContext": None
        if run.status != "error"
        else {
            "failedNodeId": failed and failed.node_id,
            "lastSuccessfulNodeId": last and last.node_id,
            "lastSuccessfulNodeName": last and last.node_name,
            "executionTrace": [entry.node_id for entry in reversed(logs)],
            "error": run.error,
        },
        "transactionHashes": transactions(run),
    }


def receipt(run: RunStatus, record: Record | None) -> Json:
    """`gasUsedWei` stands in the logs, per transaction; no sum is kept."""
    return {
        "executionId": run.execution_id,
        "status": run.status,
        "completed": run.completed,
        "transactionHashes": transactions(run),
        "output": masked(run.output),
        "error": run.error,
        "gasUsedWei": None,
        "completedAt": iso(record.ended_unix_ms) if record and run.completed else None,
    }


def execution(run: RunStatus, record: Record | None) -> Json:
    """Unlike KeeperHub, secrets in the input are masked."""
    ended = record.ended_unix_ms if record and run.completed else None
    spent = str(ended - record.started_unix_ms) if record and ended is not None else None
    return {
        "id": run.execution_id,
        "workflowId": record and record.workflow_id,
        "status": run.status,
        "input": masked(dict(record.input)) if record else None,
        "output": masked(run.output),
        "error": run.error,
        "startedAt": iso(record.started_unix_ms) if record else None,
        "completedAt": iso(ended),
        "duration": spent,
        "transactionHashes": transactions(run),
    }


def log_entry(execution_id: str, number: int, entry: NodeLog) -> Json:
    ended = entry.ended_unix_ms
    return {
        "id": f"{execution_id}.{number}",
        "executionId": execution_id,
        "nodeId": entry.node_id,
        "nodeName": entry.node_name,
        "nodeType": entry.node_type,
        "status": entry.status,
        "input": masked(entry.input),
        "output": masked(entry.output),
        "error": entry.error,
        "duration": None if ended is None else str(ended - entry.started_unix_ms),
        "startedAt": iso(entry.started_unix_ms),
        "completedAt": iso(ended),
        "timestamp": iso(entry.started_unix_ms),
        "iterationIndex": entry.iteration,
    }


def part_of(entry: Json, data: bool, nodes: Collection[str], most_bytes: int | None) -> Json:
    """A log entry as `includeData`, `nodeIds` and `truncateData` ask for it."""
    if not data or (nodes and entry["nodeId"] not in nodes):
        return {key: value for key, value in entry.items() if key not in ("input", "output")}
    if most_bytes is None:
        return entry
    return {**entry, **{key: _cut(entry[key], most_bytes) for key in ("input", "output")}}


def _cut(value: Any, most_bytes: int) -> Any:
    said = json.dumps(value).encode()
    if value is None or len(said) <= most_bytes:
        return value
    preview = said[:most_bytes].decode("utf-8", "ignore")
    return {"_truncated": True, "originalSize": len(said), "preview": preview}


def export(name: str, description: str, nodes: Any, edges: Any, at_unix_ms: int) -> Json:
    """A create body as a version 1 export, with what KeeperHub's server adds to nodes: see its "Note on Node
    Format". Raises KeyError, TypeError and AttributeError for what isn't one.
    """
    return {
        "version": 1,
        "exportedAt": iso(at_unix_ms),
        "workflow": {"name": name, **({"description": description} if description else {})},
        "nodes": [_node(node, place) for place, node in enumerate(nodes)],
        "edges": [{key: value for key, value in edge.items() if value is not None} for edge in edges],
        "integrationBindings": [],
    }


def _node(node: Mapping[str, Any], place: int) -> Json:
    data = {key: value for key, value in node["data"].items() if value is not None}
    outer = node["type"]
    if outer not in ("trigger", "action"):  # the plugin's slug, said one level too high
        data["config"] = {**data.get("config", {}), "actionType": outer}
        outer = "action"
    return {
        "id": node["id"],
        "type": outer,
        "position": node.get("position") or {"x": 320 * place, "y": 0},
        "data": {"type": outer, **data},
    }
