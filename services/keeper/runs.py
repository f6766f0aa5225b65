"""Carries runs of workflows from the log to a backend and what came of them back into the log.

A run is asked for in the log first, so a crash anywhere leaves either nothing or a run that `reconcile` goes
on with, under the same key. What a run did to money is not concluded here: see `services.keeper.reader`.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import structlog
from nats.errors import Error as NatsError

from events import workflow
from events.envelope import Cause
from events.ids import run_command_id, run_id_of, run_key
from events.kernel import Rejected
from events.workflow import Confirmed, Failed, Requested, RunTransaction, WorkflowName
from services.chain.rpc import ChainAway, Receipt, Rpc, RpcRefused
from services.handle import handle
from services.keeper.backend import BackendAway, BackendRefused, RunStatus, WorkflowBackend
from services.keeper.definitions import definition_of
from services.keeper.following import Following
from services.keeper.refusals import code_of, is_final
from services.log import EventLog, LogUnavailable

WAIT_S = 20.0
LOOK_EVERY_S = 1.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 15.0
UNCONFIRMED_AFTER_S = 30.0
"""So long a backend may be silent before the log says that nobody knows what became of a run."""
HASHES_WITHIN_S = 60.0
"""A run may be done a moment before its transactions are listed."""
GONE_AFTER_S = 600.0
"""A transaction of a failed run that our node has not heard of for so long was never sent to anybody."""
AWAY = (BackendAway, ChainAway, RpcRefused, LogUnavailable, NatsError, OSError)
TRANSACTIONLESS = "transaction_missing"

log = structlog.get_logger("runs")

CallbackInput = Callable[[str, Requested, int], Awaitable[Mapping[str, str]]]
"""What a run's trigger gets besides what was asked, by (run id, what was asked, when in unix ms).

Always the same for the same run, since a backend compares inputs under one key.
"""


class ReceiptMissing(Exception):
    """receipt_missing: a transaction that a backend reports has no confirmed receipt on our own node yet."""

    code = "receipt_missing"


@dataclass(frozen=True)
class Ended:
    """How a run ended; without `confirmed`, `code` says why."""

    run_id: str
    confirmed: bool
    code: str = field(default="")
    detail: str = ""
    retryable: bool = True
    transactions: tuple[RunTransaction, ...] = ()

    @property
    def sent(self) -> bool:
        return bool(self.transactions)


@dataclass
class Runs:
    """One task per open run, whoever asked for it."""

    events: EventLog
    following: Following
    backend: WorkflowBackend
    rpc: Rpc
    chain_id: int
    callback: CallbackInput
    _driving: dict[str, "asyncio.Task[Ended]"] = field(default_factory=dict)
    _hurried: dict[str, asyncio.Event] = field(default_factory=dict)
    _workflow_ids: dict[WorkflowName, str] = field(default_factory=dict)

    async def run(self, requested: Requested) -> Ended:
        """Ask for it, unless it was asked for before; its end. Raises LogUnavailable, RunDiffers."""
        run_id = run_id_of(requested.workflow, requested.subject_id, requested.step, requested.attempt)
        await self._tell(run_id, workflow.Request(requested), run_command_id(run_id))
        state = await self._state(run_id)
        if state.ended is not None:
            return _ended(run_id, state.ended)
        return await asyncio.shield(self._driven(run_id, state))

    async def reconcile(self) -> None:
        """Forever: every run that is open in the log is carried on, also one of a dead process."""
        await self.following.caught_up.wait()
        try:
            while True:
                for run_id, state in list(self.following.view.runs.items()):
                    self._driven(run_id, state)
                with contextlib.suppress(TimeoutError):
                    sequence = self.following.view.sequence
                    async with asyncio.timeout(LOOK_EVERY_S):  # wait_for of 3.11 can swallow a cancellation
                        await self.following.wait_for(sequence + 1)
        finally:
            for task in self._driving.values():
                task.cancel()
            if self._driving:
                await asyncio.wait(self._driving.values())

    def hurry(self, run_id: str) -> bool:
        """Look at it now; False: no such run is open."""
        hurried = self._hurried.get(run_id)
        if hurried is None:
            return False
        hurried.set()
        return True

    def _driven(self, run_id: str, state: workflow.Run) -> "asyncio.Task[Ended]":
        task = self._driving.get(run_id)
        if task is None:
            task = asyncio.create_task(self._drive(run_id, state), name=f"run {run_id}")
            self._driving[run_id] = task
            task.add_done_callback(lambda done: self._driven_out(run_id, done))
        return task

    def _driven_out(self, run_id: str, done: "asyncio.Task[Ended]") -> None:
        """A run whose driver failed is driven again, after a while."""
        del self._driving[run_id]
        if not done.cancelled() and (error := done.exception()) is not None:
            log.error("run_driver_failed", run_id=run_id, why=repr(error))

    async def _drive(self, run_id: str, state: workflow.Run) -> Ended:
        """Until it has ended in the log."""
        hurried = self._hurried[run_id] = asyncio.Event()
        pause_s, silent_since = FIRST_PAUSE_S, time.monotonic()
        ended_at: float | None = None
        execution_id = state.accepted.execution_id if state.accepted is not None else None
        try:
            while True:
                try:
                    self._check_backend(state)
                    if execution_id is None:
                        execution_id = await self._execute(run_id, state.requested)
                    status = await self._waited(execution_id, hurried)
                    silent_since = time.monotonic()
                    if status.completed:
                        ended_at = time.monotonic() if ended_at is None else ended_at
                        return await self._end(run_id, status, time.monotonic() - ended_at)
                    pause_s = FIRST_PAUSE_S
                    continue
                except BackendRefused as refused:
                    if not refused.retryable:
                        return await self._refused(run_id, refused)
                    log.warning("run_delayed", run_id=run_id, code=refused.code, why=refused.detail)
                except ReceiptMissing as missing:
                    log.warning("run_unproven", run_id=run_id, why=str(missing))
                except AWAY as away:
                    log.warning("run_delayed", run_id=run_id, why=str(away) or repr(away))
                unknown_since = silent_since if ended_at is None else min(silent_since, ended_at)
                if time.monotonic() - unknown_since > UNCONFIRMED_AFTER_S:
                    await self._unconfirmed(run_id)
                await self._pause(hurried, pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        finally:
            del self._hurried[run_id]

    def _check_backend(self, state: workflow.Run) -> None:
        """Raises BackendAway: only who took a run can say what became of it."""
        taken = state.accepted
        if taken is not None and taken.backend != self.backend.name:
            raise BackendAway(
                f"runs as {taken.execution_id} of the {taken.backend} backend, which is not set up"
            )

    async def _execute(self, run_id: str, requested: Requested) -> str:
        name = requested.workflow
        if name not in self._workflow_ids:
            self._workflow_ids[name] = await self.backend.ensure_workflow(definition_of(name))
        at_unix_ms = self.following.asked_unix_ms.get(run_id) or await self._asked_at(run_id)
        callback = await self.callback(run_id, requested, at_unix_ms)
        whole = {**requested.input, "run_key": run_id, **callback}
        try:
            execution_id = await self.backend.execute(self._workflow_ids[name], whole, run_key(run_id))
        except BackendRefused as refused:
            if refused.status == 404:
                self._workflow_ids.pop(name, None)  # somebody removed it: the next time it is made again
                refused.retryable = True
            raise
        accepted = workflow.Accepted(self.backend.name, execution_id)
        await self._tell(run_id, workflow.Accept(accepted), f"run-accepted:{run_id}:{execution_id}")
        return execution_id

    async def _state(self, run_id: str) -> workflow.Run:
        """As the log has it now: asking again answers with what was asked, not with what came of it."""
        history = await self.events.history("workflow", run_id)
        state = workflow.workflow.fold(item.event for item in history.recorded)
        assert isinstance(state, workflow.Run)
        return state

    async def _asked_at(self, run_id: str) -> int:
        history = await self.events.history("workflow", run_id)
        return history.recorded[0].time_unix_ms

    async def _waited(self, execution_id: str, hurried: asyncio.Event) -> RunStatus:
        """The backend's answer to a long poll, or to a poll at once when a callback said that it is time."""
        waiting = asyncio.ensure_future(self.backend.wait(execution_id, WAIT_S))
        hint = asyncio.ensure_future(hurried.wait())
        try:
            await asyncio.wait({waiting, hint}, return_when=asyncio.FIRST_COMPLETED)
            hurried.clear()
            return await waiting if waiting.done() else await self.backend.status(execution_id)
        finally:
            for task in (waiting, hint):
                task.cancel()

    async def _pause(self, hurried: asyncio.Event, pause_s: float) -> None:
        try:
            async with asyncio.timeout(pause_s):
                await hurried.wait()
        except TimeoutError:
            return
        hurried.clear()

    async def _end(self, run_id: str, status: RunStatus, waited_s: float) -> Ended:
        """As our own node of the chain has it. `waited_s`: since it was first seen to have ended.

        Raises ReceiptMissing, ChainAway.
        """
        sent = tuple(
            RunTransaction(one.node_id, one.hash.lower(), one.chain_id or self.chain_id, one.iteration)
            for one in status.transactions
        )
        if status.status == "success" and not sent and waited_s < HASHES_WITHIN_S:
            raise ReceiptMissing("the backend names no transaction yet")
        if status.status != "success" and waited_s > GONE_AFTER_S:
            sent = tuple([one for one in sent if await self.rpc.transaction(one.hash) is not None])
        receipts = [await self._receipt(one.hash) for one in sent]
        if status.status == "success" and sent and all(receipt.succeeded for receipt in receipts):
            return await self._told(run_id, Confirmed(sent))
        if status.status == "success":
            code = "transaction_failed" if sent else TRANSACTIONLESS
            return await self._told(run_id, Failed(code, "", True, sent))
        detail = (status.error or status.status)[:500]
        code = code_of(detail)
        return await self._told(run_id, Failed(code, detail, not is_final(code), sent))

    async def _receipt(self, transaction: str) -> Receipt:
        found = await self.rpc.receipt(transaction)
        if found is None:
            raise ReceiptMissing(transaction)
        return found

    async def _refused(self, run_id: str, refused: BackendRefused) -> Ended:
        """The backend will never take it: it says so, and nothing was sent."""
        return await self._told(run_id, Failed(refused.code, refused.detail[:500], False, ()))

    async def _unconfirmed(self, run_id: str) -> None:
        try:
            await self._tell(run_id, workflow.MarkUnconfirmed(), f"run-unconfirmed:{run_id}:{time.time_ns()}")
        except AWAY as away:
            log.warning("run_delayed", run_id=run_id, why=str(away) or repr(away))

    async def _told(self, run_id: str, ended: Confirmed | Failed) -> Ended:
        await self._tell(run_id, workflow.End(ended), f"run-ended:{run_id}")
        log.info("run_ended", run_id=run_id, how=type(ended).__name__.lower())
        return _ended(run_id, ended)

    async def _tell(self, run_id: str, command: workflow.WorkflowCommand, command_id: str) -> None:
        cause = Cause(command_id, run_id, command_id, time.time_ns() // 1_000_000)
        try:
            await handle(self.events, "workflow", run_id, command, cause)
        except Rejected as refused:
            log.error("run_refused", run_id=run_id, code=refused.code, why=str(refused))
            raise


def _ended(run_id: str, ended: Confirmed | Failed) -> Ended:
    if isinstance(ended, Confirmed):
        return Ended(run_id, True, transactions=ended.transactions)
    return Ended(run_id, False, ended.code, ended.detail, ended.retryable, ended.transactions)
