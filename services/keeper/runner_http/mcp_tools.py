"""The tools of `/mcp`, by KeeperHub's names and arguments (KH: lib/mcp/tools.ts), each a call of the desk."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from services.keeper.runner_http.desk import Desk
from services.keeper.runner_http.keys import Scope

Arguments = Mapping[str, Any]
HINT = "This says that the workflow was started, not that it ended. Ask get_execution for its end."
TEXT, WHOLE, FLAG = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
OBJECT = {"type": "object"}
LIST: dict[str, Any] = {"type": "array", "items": OBJECT}
WORKFLOW: dict[str, dict[str, Any]] = {"workflowId": TEXT}
CONTENT: dict[str, dict[str, Any]] = {
    "name": TEXT,
    "description": TEXT,
    "nodes": LIST,
    "edges": LIST,
    "enabled": FLAG,
}


class ArgumentsWrong(Exception):
    """arguments_wrong: a tool was called with arguments that its schema does not allow."""

    code = "arguments_wrong"


@dataclass(frozen=True)
class Tool:
    """`fields`: JSON Schema by argument."""

    description: str
    scope: Scope
    fields: Mapping[str, Mapping[str, Any]]
    required: tuple[str, ...]
    call: Callable[[Desk, Arguments], Awaitable[Any]]

    def listed(self, name: str) -> dict[str, Any]:
        schema = {"type": "object", "properties": self.fields, "required": list(self.required)}
        return {"name": name, "description": self.description, "inputSchema": schema}

    def check(self, arguments: Any) -> Arguments:
        """Raises ArgumentsWrong."""
        if not isinstance(arguments, Mapping):
            raise ArgumentsWrong("arguments is not an object")
        types = {"string": str, "integer": int, "boolean": bool, "object": Mapping, "array": list}
        for name in self.required:
            if name not in arguments:
                raise ArgumentsWrong(f"{name} is required")
        for name, value in arguments.items():
            wanted = types[self.fields[name]["type"]] if name in self.fields else None
            if wanted and value is not None and not isinstance(value, wanted):
                raise ArgumentsWrong(f"{name} is not of type {self.fields[name]['type']}")
        return arguments


async def _execute(desk: Desk, given: Arguments) -> Any:
    key = given.get("idempotency_key")
    found = await desk.execute(given["workflowId"], given.get("input") or {}, key)
    return {**found, "hint": HINT}


async def _execution(desk: Desk, given: Arguments) -> Any:
    execution_id = given["executionId"]
    logs = await desk.logs(
        execution_id,
        given.get("includeData") is not False,
        [str(node) for node in given.get("nodeIds") or ()],
        given.get("truncateData"),
    )
    return {"status": await desk.status(execution_id), "logs": logs}


async def _workflows(desk: Desk, given: Arguments) -> Any:
    filtered = bool(given.get("projectId") or given.get("tagId"))
    return await desk.workflows(1_000_000, 0, filtered)


async def _schemas(desk: Desk, given: Arguments) -> Any:
    found = desk.schemas()
    category = given.get("category")
    if category and category not in ("chains", "triggers"):
        actions = {k: v for k, v in found["actions"].items() if v["category"].lower() == category.lower()}
        found = {**found, "actions": actions}
    if given.get("includeChains") is False:
        del found["chains"]
    return found


TOOLS: dict[str, Tool] = {
    "list_workflows": Tool("All workflows.", "mcp:read", {"projectId": TEXT, "tagId": TEXT}, (), _workflows),
    "get_workflow": Tool(
        "A workflow with its nodes and edges.",
        "mcp:read",
        WORKFLOW,
        ("workflowId",),
        lambda desk, given: desk.workflow(given["workflowId"]),
    ),
    "create_workflow": Tool(
        "A new workflow.",
        "mcp:write",
        {**CONTENT, "idempotency_key": TEXT},
        ("name", "nodes", "edges"),
        lambda desk, given: desk.create(given),
    ),
    "update_workflow": Tool(
        "Other nodes and edges, as a whole, for a workflow.",
        "mcp:write",
        {**WORKFLOW, **CONTENT},
        ("workflowId",),
        lambda desk, given: desk.update(given["workflowId"], given),
    ),
    "delete_workflow": Tool(
        "Removes a workflow that never ran.",
        "mcp:write",
        {**WORKFLOW, "force": FLAG},
        ("workflowId",),
        lambda desk, given: desk.delete(given["workflowId"], given.get("force") is True),
    ),
    "validate_workflow": Tool(
        "What is valid in a workflow and bound to surprise.",
        "mcp:read",
        WORKFLOW,
        ("workflowId",),
        lambda desk, given: desk.validate(given["workflowId"]),
    ),
    "execute_workflow": Tool(
        "Starts a workflow; get_execution says how it ends.",
        "mcp:write",
        {**WORKFLOW, "input": OBJECT, "idempotency_key": TEXT},
        ("workflowId",),
        _execute,
    ),
    "get_execution": Tool(
        "Status and node logs of an execution.",
        "mcp:read",
        {
            "executionId": TEXT,
            "includeData": FLAG,
            "nodeIds": {"type": "array", "items": TEXT},
            "truncateData": WHOLE,
        },
        ("executionId",),
        _execution,
    ),
    "list_executions": Tool(
        "The newest executions of a workflow.",
        "mcp:read",
        WORKFLOW,
        ("workflowId",),
        lambda desk, given: desk.executions(given["workflowId"]),
    ),
    "list_action_schemas": Tool(
        "Actions, triggers and chains that workflows may use.",
        "mcp:read",
        {"category": TEXT, "includeChains": FLAG},
        (),
        _schemas,
    ),
}
