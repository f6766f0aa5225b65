"""The `WorkflowBackend` at a hosted KeeperHub, over whichever transport it is given. Signs and sends nothing
itself; knows no workflow.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from services.keeper import inputs
from services.keeper.backend import BackendAway, BackendRefused, NodeLog, RunStatus
from services.keeper.hosted.transport import Json, Transport
from services.keeper.hosted.wire import node_log, run_status

NODE_DATA = ("type", "label", "description", "config", "enabled")
SHORTEST_PAUSE_S = 0.05
MENDABLE = {401, 402, 403, 404, 410}
"""The key, the plan, the scope, a workflow that somebody removed or switched off: nothing was taken, and a
person can mend it, so the same key may be sent again (KH: lib/idempotency.ts releases it).
"""


class HostedBackend:
    """`chain_id`: the chain that the workflows write to; `health` asks whether KeeperHub runs there.
    `check` raises BackendRefused for an input that must not travel.
    """

    name: Literal["hosted"] = "hosted"

    def __init__(
        self,
        transport: Transport,
        chain_id: int | None = None,
        check: Callable[[Mapping[str, Any]], None] = inputs.check,
    ) -> None:
        self._check = check
        self._transport = transport
        self._chain_id = chain_id
        self._ensured: dict[str, str] = {}
        self._ensuring = asyncio.Lock()

    async def ensure_workflow(self, definition: Mapping[str, Any]) -> str:
        """Of several with this name the oldest is meant. What was changed by hand is changed back."""
        wanted = content(definition["workflow"], definition["nodes"], definition["edges"])
        hashed = content_hash(wanted)
        async with self._ensuring:
            if hashed not in self._ensured:
                with _mendable():
                    self._ensured[hashed] = await self._ensure(wanted, hashed)
            return self._ensured[hashed]

    async def _ensure(self, wanted: Json, hashed: str) -> str:
        named = [item for item in await self._transport.workflows() if item.get("name") == wanted["name"]]
        body = {**wanted, "enabled": True}
        if not named:
            return _id(await self._transport.create(body, hashed))
        oldest = min(named, key=lambda item: (str(item.get("createdAt", "")), str(item.get("id"))))
        found = await self._transport.workflow(_id(oldest))
        if not _is(found, hashed) or found.get("enabled") is False:
            await self._transport.update(_id(oldest), body)
        return _id(oldest)

    async def execute(self, workflow_id: str, input: Mapping[str, Any], idempotency_key: str) -> str:
        self._check(input)
        try:
            with _mendable():
                found = await self._transport.execute(workflow_id, input, idempotency_key)
        except BackendRefused as refused:
            if refused.status == 404:
                self._ensured.clear()  # somebody removed it: the next `ensure_workflow` looks again
            raise
        execution_id = found.get("executionId")
        if not isinstance(execution_id, str) or not execution_id:
            raise BackendAway("the answer to execute names no execution")
        return execution_id

    async def status(self, execution_id: str) -> RunStatus:
        with _unaccounted():
            found = run_status(execution_id, await self._transport.status(execution_id))
            if found.status == "success" and found.output is None:
                return run_status(execution_id, await self._transport.wait(execution_id, 0.0))
        return found

    async def wait(self, execution_id: str, within_s: float) -> RunStatus:
        deadline = time.monotonic() + within_s
        while True:
            with _unaccounted():
                answer = await self._transport.wait(execution_id, max(0.0, deadline - time.monotonic()))
            found = run_status(execution_id, answer)
            left_s = deadline - time.monotonic()
            if found.completed or left_s <= 0:
                return found
            await asyncio.sleep(min(left_s, max(SHORTEST_PAUSE_S, answer.get("poll_hint_s") or 0.0)))

    async def logs(self, execution_id: str) -> tuple[NodeLog, ...]:
        return tuple(node_log(entry) for entry in await self._transport.logs(execution_id))

    async def list_executions(self, workflow_id: str) -> tuple[RunStatus, ...]:
        """As many as KeeperHub shows: the newest 50."""
        found = await self._transport.executions(workflow_id)
        return tuple(run_status(_id(item), item) for item in found)

    async def health(self) -> None:
        """Also whether the key is good and the chain is served there."""
        await self._transport.workflows()
        if self._chain_id is None:
            return
        served = {str(c.get("chainId")) for c in await self._transport.chains() if c.get("isEnabled", True)}
        if str(self._chain_id) not in served:
            raise BackendRefused("chain_not_served", f"KeeperHub runs nothing on chain {self._chain_id}")

    async def close(self) -> None:
        await self._transport.close()


@contextmanager
def _mendable() -> Iterator[None]:
    try:
        yield
    except BackendRefused as refused:
        refused.retryable = refused.retryable or refused.status in MENDABLE
        raise


@contextmanager
def _unaccounted() -> Iterator[None]:
    """Whoever may not see a run, or finds it gone, knows nothing of its end."""
    try:
        yield
    except BackendRefused as refused:
        refused.retryable = True
        raise


def content(workflow: Mapping[str, Any], nodes: Any, edges: Any) -> Json:
    """What a workflow does, without what the server adds (positions, states, times, integrations).

    Sent as it is: the server lays the nodes out.
    """
    found: Json = {
        "name": workflow["name"],
        "description": workflow.get("description") or "",
        "nodes": [
            {
                "id": node["id"],
                "type": node["type"],
                "position": node.get("position") or {"x": 0, "y": 0},
                "data": {key: node["data"][key] for key in NODE_DATA if node["data"].get(key) is not None},
            }
            for node in nodes
        ],
        "edges": [
            {
                key: edge[key]
                for key in ("id", "source", "target", "sourceHandle")
                if edge.get(key) is not None
            }
            for edge in edges
        ],
    }
    return found


def content_hash(of: Json) -> str:
    """SHA-256, hex; where a node stands in the picture doesn't count, nor its `type` said twice."""
    nodes = []
    for node in of["nodes"]:
        data = {key: value for key, value in node["data"].items() if key != "type"}
        nodes.append({"id": node["id"], "type": node["type"], "data": data})
    said = json.dumps({**of, "nodes": nodes}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(said.encode()).hexdigest()


def _is(found: Json, hashed: str) -> bool:
    """Whether this is the content; what an editor half drew is not."""
    try:
        return content_hash(content(found, found.get("nodes") or (), found.get("edges") or ())) == hashed
    except (KeyError, TypeError, AttributeError):
        return False


def _id(item: Mapping[str, Any]) -> str:
    found = item.get("id")
    if not isinstance(found, str) or not found:
        raise BackendAway("an answer of KeeperHub lacks the id of what it is about")
    return found
