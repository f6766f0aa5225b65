"""The embedded runner: a workflow backend in this process, whose journal makes every execution outlive it.

What is unfinished when a process ends, however it ends, goes on in the next one (`resume`): nodes that
stand in the journal are not run again, a transaction is never signed twice. One idempotency key is one
execution for ever, not just for KeeperHub's 24 hours: here nothing is gained by forgetting. Knows no
workflow in particular.
"""

import asyncio
import contextlib
import hashlib
import json
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import httpx
import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from ulid import ULID

from services.chain.networks import Network
from services.chain.rpc import ChainAway, Rpc
from services.chain.sender import Sender
from services.database import ENGINE_AWAY
from services.keeper.backend import BackendAway, BackendRefused, NodeLog, RunStatus, SentTransaction
from services.keeper.runner.actions.step import Deliveries, Means, Signing
from services.keeper.runner.execution import Execution, trigger_entry
from services.keeper.runner.graph import Ending, Graph, LoopInvalid
from services.keeper.runner.journal import Begun, Busy, Entry, Journal, input_hash
from services.keeper.runner.masking import masked
from services.keeper.workflow_format import WorkflowInvalid, content_hash, parse

STARTED_HERE = ("Manual", "Webhook")
"""Triggers that `execute` stands for. The others need a clock or a chain's events to start them, which
nothing here watches.
"""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 15.0
POLL_S = 0.1
MOST_INPUT_BYTES = 256 * 1024

log = structlog.get_logger("runner")


class Runner:
    """A WorkflowBackend. `sender` None: workflows that send a transaction fail at that node."""

    name: Literal["embedded"] = "embedded"

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        rpc: Rpc | None = None,
        network: Network | None = None,
        sender: Sender | None = None,
        http_allowed: Collection[str] = (),
        signing: Signing | None = None,
        deliveries: Deliveries | None = None,
        contracts: Mapping[str, str] | None = None,
        journal: Journal | None = None,
    ) -> None:
        self._engine = engine
        self._journal = journal or Journal(engine)
        self._http = httpx.AsyncClient(trust_env=False, follow_redirects=False)
        self._means = Means(
            engine, self._http, rpc, network, sender, http_allowed, signing, deliveries, contracts or {}
        )
        self._graphs: dict[tuple[str, str], Graph] = {}
        self._newest: dict[str, str] = {}
        self._driving: dict[str, asyncio.Task[RunStatus]] = {}
        self._closed = False

    async def resume(self) -> int:
        """Go on with every execution that has not ended; how many. Once, before anything is executed."""
        unfinished = await self._journal.unfinished()
        for begun in reversed(unfinished):
            self._drive(begun)
        return len(unfinished)

    async def close(self) -> None:
        """Nothing goes on after this; what is unfinished can be resumed by another."""
        self._closed = True
        tasks = [*self._driving.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._http.aclose()

    async def ensure_workflow(self, definition: Mapping[str, Any]) -> str:
        """By its name; another content is what later executions begin with."""
        try:
            found = parse(definition)
            graph = Graph(found)
            _ = graph.bodies
        except (WorkflowInvalid, LoopInvalid) as wrong:
            raise BackendRefused("invalid_input", str(wrong), status=400) from wrong
        workflow_id = "wf_" + hashlib.sha256(found.name.encode()).hexdigest()[:24]
        hashed = content_hash(definition)
        if self._newest.get(workflow_id) != hashed:
            with _database():
                await self._journal.keep(workflow_id, found.name, hashed, definition)
            self._graphs[workflow_id, hashed] = graph
            self._newest[workflow_id] = hashed
        return workflow_id

    async def remove_workflow(self, workflow_id: str) -> bool:
        """False when it has run: what was run stays readable."""
        with _database():
            removed = await self._journal.remove(workflow_id)
        if removed:
            self._newest.pop(workflow_id, None)
        return removed

    async def execute(self, workflow_id: str, input: Mapping[str, Any], idempotency_key: str) -> str:
        given = dict(input)
        try:
            hashed = input_hash(given)
        except (ValueError, TypeError) as wrong:
            raise BackendRefused("invalid_input", f"input is not JSON: {wrong}", status=400) from wrong
        if len(json.dumps(given)) > MOST_INPUT_BYTES:
            raise BackendRefused("invalid_input", f"input has more than {MOST_INPUT_BYTES} bytes", status=400)
        if not idempotency_key or len(idempotency_key) > 255:
            raise BackendRefused("invalid_input", "an idempotency key has 1 to 255 characters", status=400)
        if self._closed:
            raise BackendAway("the runner is closed")
        newest = await self._newest_of(workflow_id)
        graph = await self._graph(workflow_id, newest)
        trigger = graph.workflow.trigger
        if trigger.data.config["triggerType"] not in STARTED_HERE:
            kind = trigger.data.config["triggerType"]
            raise BackendRefused("invalid_input", f"this runner starts nothing by {kind}", status=400)
        now = time.time_ns() // 1_000_000
        new = Begun(f"exec_{ULID()}", workflow_id, newest, hashed, given, "running", now)
        entry = trigger_entry(trigger, given, now)
        try:
            with _database():
                begun, ours = await self._journal.begin(new, idempotency_key, entry)
        except Busy as busy:
            why = f"another request with the key {idempotency_key} is being taken"
            raise BackendRefused("idempotency_in_progress", why, status=409, retryable=True) from busy
        if begun.input_hash != hashed:
            why = f"the key {idempotency_key} was used with another input by {begun.execution_id}"
            raise BackendRefused("idempotency_conflict", why, status=409)
        if ours:
            self._drive(begun, [entry])
        elif begun.status == "running" and begun.execution_id not in self._driving:
            self._drive(begun)
        return begun.execution_id

    async def status(self, execution_id: str) -> RunStatus:
        with _database():
            begun = await self._begun(execution_id)
            kept = await self._journal.entries(execution_id)
        return _status(begun, kept[execution_id])

    async def wait(self, execution_id: str, within_s: float) -> RunStatus:
        deadline = time.monotonic() + within_s
        task = self._driving.get(execution_id)
        if task is not None:
            await asyncio.wait({task}, timeout=within_s)
            if task.done() and not task.cancelled():
                return task.result()
        while not (found := await self.status(execution_id)).completed and time.monotonic() < deadline:
            await asyncio.sleep(min(POLL_S, max(0.0, deadline - time.monotonic())))
        return found

    async def logs(self, execution_id: str) -> tuple[NodeLog, ...]:
        with _database():
            await self._begun(execution_id)
            kept = await self._journal.entries(execution_id)
        return tuple(_log(entry) for entry in reversed(kept[execution_id]))

    async def list_executions(self, workflow_id: str) -> tuple[RunStatus, ...]:
        with _database():
            found = await self._journal.executions(workflow_id)
            kept = await self._journal.entries(*(begun.execution_id for begun in found))
        return tuple(_status(begun, kept[begun.execution_id]) for begun in found)

    async def health(self) -> None:
        """Raises BackendAway when the database or the chain is away."""
        if self._closed:
            raise BackendAway("the runner is closed")
        with _database():
            async with self._engine.connect() as connection:
                await connection.execute(text("SELECT 1"))
        if self._means.rpc is not None:
            try:
                await self._means.rpc.block_number()
            except ChainAway as away:
                raise BackendAway(str(away)) from away

    def _drive(self, begun: Begun, kept: Sequence[Entry] = ()) -> None:
        """`kept`: what the journal has of it, when that is known."""
        task = asyncio.create_task(self._keep_driving(begun, kept), name=begun.execution_id)
        self._driving[begun.execution_id] = task
        task.add_done_callback(lambda _: self._driving.pop(begun.execution_id, None))

    async def _keep_driving(self, begun: Begun, kept: Sequence[Entry]) -> RunStatus:
        """Until it has ended. What is not the workflow's own failure is tried again, from the journal."""
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                graph = await self._graph(begun.workflow_id, begun.content_hash)
                again = not kept
                if again:
                    kept = (await self._journal.entries(begun.execution_id))[begun.execution_id]
                by_step = {(entry.node_id, entry.iteration): entry for entry in kept}
                execution = Execution(begun, graph, self._journal, self._means, by_step, again)
                end = await execution.drive()
                log.info("execution_ended", execution_id=begun.execution_id, status=end.status, why=end.error)
                ended = replace(begun, status=end.status, output=end.output, error=end.error)
                return _status(ended, [*execution.kept.values()])
            except ENGINE_AWAY as away:
                log.warning("execution_delayed", execution_id=begun.execution_id, why=str(away)[:200])
            except Exception:
                log.exception("execution_delayed", execution_id=begun.execution_id)
            kept = ()
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _graph(self, workflow_id: str, hashed: str) -> Graph:
        known = self._graphs.get((workflow_id, hashed))
        if known is None:
            with _database():
                known = Graph(parse(await self._journal.definition(workflow_id, hashed)))
            self._graphs[workflow_id, hashed] = known
        return known

    async def _newest_of(self, workflow_id: str) -> str:
        """The content that this process was given last, else the one that the journal was."""
        known = self._newest.get(workflow_id)
        if known is None:
            with _database():
                found = await self._journal.newest(workflow_id)
            if found is None:
                raise BackendRefused("not_found", f"no workflow {workflow_id}", status=404)
            known = self._newest[workflow_id] = found[0]
        return known

    async def _begun(self, execution_id: str) -> Begun:
        found = await self._journal.execution(execution_id)
        if found is None:
            raise BackendRefused("not_found", f"no execution {execution_id}", status=404)
        return found


@contextlib.contextmanager
def _database() -> Iterator[None]:
    """A database that is away is a backend that is away."""
    try:
        yield
    except ENGINE_AWAY as away:
        raise BackendAway(str(away)) from away


def _status(begun: Begun, kept: list[Entry]) -> RunStatus:
    sent = tuple(
        SentTransaction(entry.transaction, entry.node_id, entry.name, entry.chain_id, _index(entry))
        for entry in kept
        if entry.transaction is not None
    )
    return RunStatus(begun.execution_id, begun.status, sent, begun.output, begun.error)


def _log(entry: Entry) -> NodeLog:
    return NodeLog(
        entry.node_id,
        entry.name,
        entry.type,
        "success" if entry.ending is Ending.DONE else "error",
        entry.started_unix_ms,
        entry.ended_unix_ms,
        entry.input,
        masked(entry.output),
        entry.error,
        _index(entry),
    )


def _index(entry: Entry) -> int | None:
    """Of the innermost loop."""
    return int(entry.iteration.rpartition("/")[2]) if entry.iteration else None
