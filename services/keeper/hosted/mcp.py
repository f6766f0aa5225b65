"""KeeperHub over MCP: the same calls as tools (KH: lib/mcp/tools.ts). There is no tool that waits."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import SecretStr

from services.keeper.backend import BackendAway
from services.keeper.hosted.line import TIMEOUT_S
from services.keeper.hosted.mcp_session import McpSession
from services.keeper.hosted.patience import Patience, patiently
from services.keeper.hosted.transport import Json

POLL_HINT_S = 2.0
"""What KeeperHub's status route recommends over REST; a tool's answer doesn't say."""


class Mcp:
    """`key`: of an organisation. Raises WrongKeyKind and UnsafeUrl."""

    def __init__(
        self,
        url: str,
        key: SecretStr,
        patience: Patience | None = None,
        timeout_s: float = TIMEOUT_S,
        poll_hint_s: float = POLL_HINT_S,
    ) -> None:
        self._patience = patience or Patience()
        self._session = McpSession(url, key, timeout_s, self._patience.longest_s)
        self._poll_hint_s = poll_hint_s

    async def workflows(self) -> Sequence[Json]:
        return _list(await self._call("list_workflows", {}), "workflows")

    async def workflow(self, workflow_id: str) -> Json:
        return _object(await self._call("get_workflow", {"workflowId": workflow_id}))

    async def create(self, body: Json, idempotency_key: str) -> Json:
        arguments = {**body, "idempotency_key": idempotency_key}
        return _object(await self._call("create_workflow", arguments, repeatable=False))

    async def update(self, workflow_id: str, body: Json) -> Json:
        return _object(await self._call("update_workflow", {"workflowId": workflow_id, **body}))

    async def execute(self, workflow_id: str, input: Mapping[str, Any], idempotency_key: str) -> Json:
        arguments = {"workflowId": workflow_id, "input": dict(input), "idempotency_key": idempotency_key}
        return _object(await self._call("execute_workflow", arguments))

    async def status(self, execution_id: str) -> Json:
        found = await self._execution(execution_id, includeData=False)
        status, execution = found.get("status"), _execution_of(found)
        if not isinstance(status, Mapping):
            raise BackendAway("get_execution answered without a status")
        return {
            "output": execution.get("output"),
            "error": execution.get("error"),
            **status,
            "poll_hint_s": self._poll_hint_s,
        }

    async def wait(self, execution_id: str, within_s: float) -> Json:
        return await self.status(execution_id)

    async def logs(self, execution_id: str) -> Sequence[Json]:
        found = await self._execution(execution_id, includeData=True)
        logs = found.get("logs")
        entries = logs.get("logs") if isinstance(logs, Mapping) else None
        return [entry for entry in entries or () if isinstance(entry, dict)]

    async def executions(self, workflow_id: str) -> Sequence[Json]:
        return _list(await self._call("list_executions", {"workflowId": workflow_id}), "executions")

    async def chains(self) -> Sequence[Json]:
        return _list(await self._call("list_action_schemas", {"category": "chains"}), "chains")

    async def close(self) -> None:
        await self._session.close()

    async def _execution(self, execution_id: str, **how: bool) -> Json:
        return _object(await self._call("get_execution", {"executionId": execution_id, **how}))

    async def _call(self, tool: str, arguments: Mapping[str, Any], *, repeatable: bool = True) -> Any:
        reply = await patiently(
            lambda: self._session.call(tool, arguments), self._patience, tool, repeatable=repeatable
        )
        return reply.body


def _execution_of(found: Json) -> Mapping[str, Any]:
    logs = found.get("logs")
    execution = logs.get("execution") if isinstance(logs, Mapping) else None
    return execution if isinstance(execution, Mapping) else {}


def _object(body: Any) -> Json:
    if isinstance(body, dict):
        return body
    raise BackendAway(f"answered {type(body).__name__} where an object belongs")


def _list(body: Any, named: str) -> list[Json]:
    """Bare, or under its name."""
    found = body.get(named) if isinstance(body, dict) else body
    if isinstance(found, list):
        return [item for item in found if isinstance(item, dict)]
    raise BackendAway(f"answered {type(body).__name__} where a list of {named} belongs")
