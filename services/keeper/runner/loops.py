"""For Each: the nodes of a loop's body once per item, one after the other or side by side, as KeeperHub
runs them.

Inside an iteration a node runs when the first edge reaches it; a node that fails ends its branch, and its
iteration is a failed one. All iterations are run; when any failed, nothing after the loop is. Knows no
action.
"""

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from services.keeper.runner import templates
from services.keeper.runner.actions.step import Result, failure
from services.keeper.runner.graph import Body, Ending
from services.keeper.runner.journal import Entry
from services.keeper.runner.templates import ABSENT, Output, Outputs
from services.keeper.workflow_format import CONDITION, FOR_EACH, Node

if TYPE_CHECKING:
    from services.keeper.runner.execution import Execution

FAILED = "__forEachBodyFailure"


class LoopRefused(Exception):
    """There is no list to go through."""


@dataclass(frozen=True)
class Loop:
    execution: "Execution"
    node: Node
    config: dict[str, Any]
    outputs: Outputs
    iteration: str

    async def run(self) -> Result:
        """`{success, arrayLength, maxIterations, results, failedIterations}`."""
        items = self._items()
        most = self._whole("maxIterations")
        wanted = items[:most] if most > 0 else items
        results: list[Any] = [None] * len(wanted)
        at_once = self._at_once(len(wanted))
        numbered = iter(range(len(wanted)))

        async def work() -> None:
            for index in numbered:
                results[index] = await self._one(wanted[index], index, len(wanted))

        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(work())
        failed = [result for result in results if isinstance(result, dict) and result.get(FAILED) is True]
        summary = {"arrayLength": len(items), "maxIterations": len(wanted), "results": results}
        if failed:
            return failure(failed[0]["error"], **summary, failedIterations=len(failed))
        return {"success": True, **summary, "failedIterations": 0}

    def _items(self) -> list[Any]:
        said = self.config.get("arraySource")
        try:
            found = json.loads(said) if isinstance(said, str) else said
        except ValueError:
            found = None
        if not isinstance(found, list):
            raise LoopRefused(f"For Each: arraySource is not a list: {str(said)[:200]}")
        return found

    def _at_once(self, items: int) -> int:
        match self.config.get("concurrency"):
            case "parallel":
                return items
            case "custom":
                return min(items, max(1, self._whole("concurrencyLimit")))
        return min(items, 1)

    def _whole(self, name: str) -> int:
        said = str(self.config.get(name) or "0").strip()
        return int(said) if said.isdecimal() and len(said) < 10 else 0

    async def _one(self, item: Any, index: int, total: int) -> Any:
        """What an iteration gives: what its last node gave, or how it failed."""
        path = self.config.get("mapExpression")
        if isinstance(path, str) and path and isinstance(item, dict | list):
            mapped = templates.looked_up(item, path)
            item = item if mapped is ABSENT or mapped is None else mapped
        iteration = f"{self.iteration}/{index}" if self.iteration else str(index)
        current = {"currentItem": item, "index": index, "totalItems": total}
        scope = {**self.outputs, self.node.id: Output(self.node.name, current)}
        body = self.execution.graph.bodies[self.node.id]
        turn = _Turn(self.execution, body, iteration, scope)
        for first in body.first:
            await turn.visit(first)
        if turn.failure is not None:
            return {
                FAILED: True,
                "success": False,
                "error": turn.failure.error,
                "nodeId": turn.failure.node_id,
            }
        return turn.given(item)


class _Turn:
    """One iteration of one body."""

    def __init__(self, execution: "Execution", body: Body, iteration: str, scope: dict[str, Output]) -> None:
        self.failure: Entry | None = None
        self._execution = execution
        self._body = body
        self._iteration = iteration
        self._scope = scope
        self._visited: set[str] = set()
        self._own: dict[str, Any] = {}

    async def visit(self, node_id: str) -> None:
        """A node and, branch by branch, all that it leads to."""
        if node_id in self._visited or node_id == self._body.collect or node_id not in self._body.nodes:
            return
        self._visited.add(node_id)
        graph = self._execution.graph
        node = graph.nodes[node_id]
        if not node.data.enabled:
            self._give(node, None)
            for target in graph.targets[node_id]:
                await self.visit(target)
            return
        entry = self._execution.kept.get((node_id, self._iteration))
        if entry is None:
            entry = await self._execution.run(node, self._scope, self._iteration)
            await self._execution.keep(entry)
        if entry.ending is not Ending.DONE:
            self.failure = self.failure or entry
            self._scope[node_id] = Output(node.name, ABSENT)
            return
        self._give(node, entry.output)
        for target in self._after(node, entry.output):
            await self.visit(target)

    def given(self, item: Any) -> Any:
        """By those before the Collect if there is one, else by the last in the order of the body."""
        graph = self._execution.graph
        before = [node for node in self._body.nodes if self._body.collect in graph.targets[node]]
        for nodes in (before, self._body.nodes):
            found = [self._own[node] for node in nodes if node in self._own]
            if found:
                return found[-1]
        return item

    def _give(self, node: Node, output: Any) -> None:
        self._own[node.id] = output
        self._scope[node.id] = Output(node.name, output)

    def _after(self, node: Node, output: Any) -> tuple[str, ...]:
        graph = self._execution.graph
        if node.action == CONDITION:
            return graph.taken(node.id, str(bool(output["condition"])).lower())
        if node.action == FOR_EACH:
            return graph.after(node.id)
        return graph.targets[node.id]
