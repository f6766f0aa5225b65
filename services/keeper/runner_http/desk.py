"""What a caller may ask of the runner, however it was asked: REST routes and MCP tools both come here.

Takes and returns KeeperHub's JSON; raises `Refused` with the status and body that REST would answer.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ulid import ULID

from services.chain.networks import Network
from services.database import ENGINE_AWAY
from services.keeper.backend import BackendAway, BackendRefused
from services.keeper.runner.runner import Runner
from services.keeper.runner_http import shown
from services.keeper.runner_http.answers import away, coded, of_backend, worded
from services.keeper.runner_http.schemas import schemas
from services.keeper.runner_http.shelf import Record, Shelf, Shelved
from services.keeper.runner_http.shown import Json
from services.keeper.workflow_format import WorkflowInvalid, lint, parse

MOST_LISTED = 50
"""KH: app/api/workflows/[workflowId]/executions/route.ts."""
MOST_KEY = 200


@dataclass(frozen=True)
class Desk:
    """`network`: the one chain that the runner writes to."""

    runner: Runner
    shelf: Shelf
    network: Network | None = None

    async def workflows(self, limit: int, offset: int, filtered: bool) -> list[Json]:
        """`filtered`: by a project or a tag, which no workflow here has."""
        with _refusing():
            found = [] if filtered else await self.shelf.workflows()
        return [shown.workflow(one) for one in found[offset : offset + limit]]

    async def workflow(self, workflow_id: str) -> Json:
        return shown.workflow(await self._shelved(workflow_id))

    async def create(self, body: Mapping[str, Any]) -> Json:
        """By name: a second one of the same name is refused, where KeeperHub would make it."""
        self._no_switch(body)
        name = body.get("name")
        if not isinstance(name, str) or not name.strip():
            raise coded(400, "invalid_input", "name is required, a text")
        with _refusing():
            if any(one.name == name for one in await self.shelf.workflows()):
                raise coded(409, "conflict", f"there is a workflow named {name}; PATCH that one")
        return await self._keep(name, body.get("description"), body.get("nodes"), body.get("edges"))

    async def update(self, workflow_id: str, body: Mapping[str, Any]) -> Json:
        """Nodes and edges as a whole; what is not said stays."""
        self._no_switch(body)
        one = await self._shelved(workflow_id)
        if body.get("name", one.name) != one.name:
            raise coded(400, "invalid_input", "this runner knows a workflow by its name; make a new one")
        told = body.get("description")
        description = one.definition["workflow"].get("description", "") if told is None else told
        nodes, edges = body.get("nodes"), body.get("edges")
        return await self._keep(
            one.name,
            description,
            one.definition["nodes"] if nodes is None else nodes,
            one.definition["edges"] if edges is None else edges,
        )

    async def take_in(self, export: Mapping[str, Any]) -> Json:
        """An exported file, unchanged."""
        if export.get("version") != 1:
            raise worded(
                400, f"Unsupported workflow export version: {export.get('version')}. Expected version 1."
            )
        try:
            name = parse(export).name
        except WorkflowInvalid as wrong:
            raise worded(400, "Invalid workflow export format", details=[str(wrong)]) from wrong
        with _refusing():
            if any(one.name == name for one in await self.shelf.workflows()):
                raise coded(409, "conflict", f"there is a workflow named {name}; PATCH that one")
            workflow_id = await self.runner.ensure_workflow(export)
        bindings = export["integrationBindings"]
        return {**await self.workflow(workflow_id), "integrationBindings": bindings}

    async def export(self, workflow_id: str) -> Json:
        return dict((await self._shelved(workflow_id)).definition)

    async def validate(self, workflow_id: str) -> Json:
        found = parse((await self._shelved(workflow_id)).definition)
        return {"valid": True, "errors": [], "warnings": list(lint(found))}

    async def delete(self, workflow_id: str, force: bool) -> Json:
        """Never what has run, not even with `force`: runs are kept for audit."""
        await self._shelved(workflow_id)
        with _refusing():
            if await self.runner.remove_workflow(workflow_id):
                return {"success": True}
        why = "it has run, and this runner keeps what has run"
        raise coded(409, "conflict", why + ("; force changes nothing" if force else ""))

    async def execute(
        self, workflow_id: str, input: Mapping[str, Any], key: str | None, scope: str = ""
    ) -> Json:
        """`scope`: of the key, so that one key may be used at both entrances."""
        await self._shelved(workflow_id)
        if key is not None and not 0 < len(key) <= MOST_KEY:
            raise coded(400, "invalid_input", f"an Idempotency-Key has 1 to {MOST_KEY} characters")
        named = f"{scope}{key}" if key is not None else f"once:{ULID()}"
        before = None
        with _refusing():
            if key is not None:
                before = await self.shelf.with_key(workflow_id, named)
            try:
                execution_id = await self.runner.execute(workflow_id, input, named)
            except BackendRefused as refused:
                raise of_backend(refused, before) from refused
        replayed = {"idempotentReplay": True} if before == execution_id else {}
        return {"executionId": execution_id, "status": "running", **replayed}

    async def fire(self, workflow_id: str, input: Mapping[str, Any], key: str | None) -> Json:
        trigger = parse((await self._shelved(workflow_id)).definition).trigger
        if trigger.data.config.get("triggerType") != "Webhook":
            raise worded(400, "This workflow is not configured for webhook triggers")
        return await self.execute(workflow_id, input, key, "webhook:")

    async def status(self, execution_id: str) -> Json:
        record = await self._recorded(execution_id)
        with _refusing():
            run = await self.runner.status(execution_id)
            logs = await self.runner.logs(execution_id)
            one = await self.shelf.workflow(record.workflow_id)
        return shown.status(run, logs, len(one.definition["nodes"]) if one else len(logs))

    async def wait(self, execution_id: str, within_s: float) -> Json:
        await self._recorded(execution_id)
        with _refusing():
            run = await self.runner.wait(execution_id, within_s)
            return shown.receipt(run, await self.shelf.record(execution_id))

    async def logs(
        self, execution_id: str, data: bool = True, nodes: Sequence[str] = (), most_bytes: int | None = None
    ) -> Json:
        record = await self._recorded(execution_id)
        with _refusing():
            run = await self.runner.status(execution_id)
            logs = await self.runner.logs(execution_id)
        entries = [
            shown.log_entry(execution_id, len(logs) - place, entry) for place, entry in enumerate(logs)
        ]
        parts = [shown.part_of(entry, data, nodes, most_bytes) for entry in entries]
        return {"execution": shown.execution(run, record), "logs": parts}

    async def executions(self, workflow_id: str) -> list[Json]:
        await self._shelved(workflow_id)
        with _refusing():
            records = await self.shelf.records(workflow_id, MOST_LISTED)
            return [
                shown.execution(await self.runner.status(record.execution_id), record) for record in records
            ]

    def chains(self) -> list[Json]:
        if self.network is None:
            return []
        return [
            {
                "id": f"chain_{self.network.chain_id}",
                "chainId": self.network.chain_id,
                "name": self.network.name,
                "chainType": "evm",
                "isTestnet": self.network.play_money,
                "isEnabled": True,
                "usePrivateMempoolRpc": False,
            }
        ]

    def schemas(self) -> Json:
        return {**schemas(), "chains": self.chains()}

    async def _keep(self, name: str, description: Any, nodes: Any, edges: Any) -> Json:
        try:
            definition = shown.export(name, description or "", nodes, edges, int(time.time() * 1000))
        except (KeyError, TypeError, AttributeError, ValueError) as wrong:
            raise coded(
                400, "invalid_input", f"nodes and edges are not KeeperHub's: {wrong!r}"[:300]
            ) from wrong
        with _refusing():
            workflow_id = await self.runner.ensure_workflow(definition)
        return await self.workflow(workflow_id)

    async def _shelved(self, workflow_id: str) -> Shelved:
        with _refusing():
            found = await self.shelf.workflow(workflow_id)
        if found is None:
            raise worded(404, "Workflow not found")
        return found

    async def _recorded(self, execution_id: str) -> Record:
        with _refusing():
            found = await self.shelf.record(execution_id)
        if found is None:
            raise worded(404, "Execution not found")
        return found

    def _no_switch(self, body: Mapping[str, Any]) -> None:
        if body.get("enabled") is False:
            raise coded(
                400, "invalid_input", "this runner has no switch: a workflow runs when it is asked to"
            )


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except BackendRefused as refused:
        raise of_backend(refused) from refused
    except (BackendAway, *ENGINE_AWAY) as gone:
        raise away(f"{type(gone).__name__}: the runner or its database is away") from gone


def input_of(body: Any) -> tuple[Mapping[str, Any], bool]:
    """The trigger's input in the body of an execute; True: it was given in the deprecated way, at the top.

    KH: lib/workflow/resolve-execution-input.ts. Raises Refused.
    """
    if not isinstance(body, Mapping):
        raise worded(400, "Request body must be a JSON object")
    stray = {name: value for name, value in body.items() if name != "input"}
    if "input" not in body:
        return stray, bool(stray)
    if stray:
        raise coded(400, "invalid_input", "give the trigger's fields inside of input, or all at the top")
    if not isinstance(body["input"], Mapping):
        raise coded(400, "invalid_input", "input is not an object")
    return body["input"], False
