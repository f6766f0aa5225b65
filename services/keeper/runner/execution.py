"""One execution from where its journal left off to its end: what may run runs, side by side.

A node that stands in the journal is not run again. The journal is told of each node once, and of the end
with the last one. Only errors of PostgreSQL, and of an action whose effect is unknown, leave here: then
nothing was written, and the same execution goes on later. Knows no chain.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from services.keeper.runner import templates
from services.keeper.runner.actions.step import Means, Result, Step, failure
from services.keeper.runner.actions.table import ACTIONS, KNOWN, SENDS
from services.keeper.runner.conditions import ConditionRefused, References, decide
from services.keeper.runner.graph import Ended, Ending, Graph
from services.keeper.runner.journal import Begun, End, Entry, Journal
from services.keeper.runner.loops import Loop, LoopRefused
from services.keeper.runner.masking import masked
from services.keeper.runner.templates import ABSENT, Output, Outputs, Unresolved
from services.keeper.workflow_format import COLLECT, CONDITION, FOR_EACH, Node

ROOT = ""
"""The iteration of what is in no loop."""


@dataclass
class Execution:
    begun: Begun
    graph: Graph
    journal: Journal
    means: Means
    kept: dict[tuple[str, str], Entry] = field(default_factory=dict)
    """What became of nodes, by node and iteration."""
    again: bool = True
    """Whether another process may have been at it before."""
    _unwritten: list[Entry] = field(default_factory=list)
    """Decisions that would be the same again: they are written down together with what comes next."""

    async def drive(self) -> End:
        """Until it is over and written down so."""
        outputs: dict[str, Output] = {}
        ended: dict[str, Ended] = {}
        last: Entry | None = None
        for entry in [entry for entry in self.kept.values() if entry.iteration == ROOT]:
            last = self._apply(entry, ended, outputs, last)
        running: dict[asyncio.Task[Entry], str] = {}
        try:
            while True:
                for node_id in self._ready(ended, outputs, running):
                    task = asyncio.create_task(self.run(self.graph.nodes[node_id], dict(outputs), ROOT))
                    running[task] = node_id
                if not running:
                    end = self._end(last)
                    await self.journal.record(self.begun.execution_id, self._unwritten, end)
                    return end
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                entries = [task.result() for task in done]
                for task, entry in zip(done, entries, strict=True):
                    del running[task]
                    last = self._apply(entry, ended, outputs, last)
                self.kept |= {(entry.node_id, entry.iteration): entry for entry in entries}
                self._unwritten += entries
                if running or self._ready(ended, outputs, running):
                    await self._write()
                    continue
                end = self._end(last)
                await self.journal.record(self.begun.execution_id, self._unwritten, end)
                return end
        finally:
            for task in running:
                task.cancel()
            if running:
                await asyncio.wait(running)

    async def _write(self) -> None:
        if not all(self._would_be_the_same(entry) for entry in self._unwritten):
            entries, self._unwritten = self._unwritten, []
            await self.journal.record(self.begun.execution_id, entries)

    def _would_be_the_same(self, entry: Entry) -> bool:
        """A Condition, unless it asks for the time."""
        config = self.graph.nodes[entry.node_id].data.config
        return entry.type == CONDITION and templates.SYSTEM not in repr(config)

    def _ready(
        self,
        ended: dict[str, Ended],
        outputs: dict[str, Output],
        running: Mapping[asyncio.Task[Entry], str],
    ) -> list[str]:
        """A disabled node is passed over at once, with null as its output."""
        while True:
            ready = [node for node in self.graph.next(ended).ready if node not in running.values()]
            off = [node for node in ready if not self.graph.nodes[node].data.enabled]
            for node in off:
                ended[node] = Ended(Ending.DISABLED)
                outputs[node] = Output(self.graph.nodes[node].name, None)
            if not off:
                return ready

    def _apply(
        self, entry: Entry, ended: dict[str, Ended], outputs: dict[str, Output], last: Entry | None
    ) -> Entry | None:
        done = entry.ending is Ending.DONE
        branch = str(bool(entry.output.get("condition"))).lower() if done and entry.type == CONDITION else ""
        ended[entry.node_id] = Ended(entry.ending, branch)
        outputs[entry.node_id] = Output(entry.name, entry.output if done else ABSENT)
        return entry if last is None or last.ending is Ending.DONE else last

    def _end(self, last: Entry | None) -> End:
        """An error when any node failed: the first one's. `last`: that one, or the last that was done."""
        now = _now()
        if last is not None and last.ending is not Ending.DONE:
            return End("error", None, last.error, now)
        return End("success", None if last is None else last.output, None, now)

    async def run(self, node: Node, outputs: Outputs, iteration: str) -> Entry:
        """One node's turn. In a loop its entry is written down by the loop."""
        started, config = _now(), dict(node.data.config)
        moment = datetime.fromtimestamp(started / 1000, UTC).isoformat(timespec="milliseconds")
        outputs = {**outputs, templates.SYSTEM: templates.system(started, moment.replace("+00:00", "Z"))}
        ending, shown = Ending.DONE, config
        try:
            if node.action == CONDITION:
                silent = set(self.graph.nodes) - set(outputs)
                output: Result = {"condition": decide(config, References(outputs, silent))}
            else:
                shown = templates.filled(config, outputs)
                output = await self._act(node, shown, outputs, iteration)
            if output.get("success") is False:
                ending = Ending.FAILED
        except (Unresolved, ConditionRefused, LoopRefused) as why:
            ending, output = Ending.THREW, failure(str(why))
        except (SQLAlchemyError, ExceptionGroup, OSError):
            raise
        except Exception as unforeseen:
            if node.action in SENDS:
                raise
            ending, output = Ending.THREW, failure(f"{type(unforeseen).__name__}: {unforeseen}")
        sent = output.get("transactionHash") if node.action in SENDS else None
        return Entry(
            node.id,
            iteration,
            node.name,
            node.action or "action",
            ending,
            masked(shown),
            output,
            str(output.get("error") or "the step failed") if ending is not Ending.DONE else None,
            sent,
            output.get("chainId") if sent else None,
            started,
            _now(),
        )

    async def _act(self, node: Node, config: dict[str, Any], outputs: Outputs, iteration: str) -> Result:
        if node.action == FOR_EACH:
            return await Loop(self, node, config, outputs, iteration).run()
        if node.action == COLLECT:
            return self._collected(node, outputs)
        if not node.action:
            return failure(f'Action node "{node.name}" has no action type configured')
        action = ACTIONS.get(node.action)
        if action is None:
            return failure(f"Unknown action type {node.action}; known: {', '.join(KNOWN)}")
        begun = self.begun
        return await action(
            Step(begun.workflow_id, begun.execution_id, node.id, iteration, config, self.again), self.means
        )

    def _collected(self, node: Node, outputs: Outputs) -> Result:
        """`{results, count}` of the loop that this Collect ends."""
        for loop, body in self.graph.bodies.items():
            ends = body.collect == node.id or node.id in self.graph.by_handle(loop, "done")
            if ends and loop in outputs and isinstance(outputs[loop].data, dict):
                results = outputs[loop].data["results"]
                return {"results": results, "count": len(results)}
        return failure("Collect ends no For Each that has run")

    async def keep(self, entry: Entry) -> None:
        """Of a node in a loop."""
        await self.journal.record(self.begun.execution_id, [entry])
        self.kept[entry.node_id, entry.iteration] = entry


def trigger_entry(node: Node, given: Mapping[str, Any], at_unix_ms: int) -> Entry:
    """The trigger's output: when it was triggered, and the input's fields."""
    moment = datetime.fromtimestamp(at_unix_ms / 1000, UTC).isoformat(timespec="milliseconds")
    output = {
        "triggered": True,
        "timestamp": at_unix_ms,
        "triggeredAt": moment.replace("+00:00", "Z"),
        **given,
    }
    kind = str(node.data.config.get("triggerType"))
    return Entry(
        node.id,
        ROOT,
        node.name,
        kind,
        Ending.DONE,
        masked(dict(given)),
        output,
        None,
        None,
        None,
        at_unix_ms,
        at_unix_ms,
    )


def _now() -> int:
    return time.time_ns() // 1_000_000
