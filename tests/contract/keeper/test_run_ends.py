"""How a run ends when its backend is late, forgetful or another one: never by guessing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from events import workflow
from events.ids import run_command_id, run_id_of
from services.handle import handle
from services.keeper import runs as runs_module
from services.keeper.backend import NodeLog, RunStatus, SentTransaction
from services.keeper.following import Following
from services.keeper.runs import Ended, Runs
from tests.aggregates import cause, ulid
from tests.keeping import House, house, now_ms

ASKED = workflow.Requested("stream-stop", "stream", ulid(720), "1:close-0", 1, {"network": "31337"})
RUN_ID = run_id_of(ASKED.workflow, ASKED.subject_id, ASKED.step, ASKED.attempt)


@dataclass
class Telling:
    """A backend that answers one status after the other, the last one for ever."""

    statuses: list[RunStatus]
    name: Literal["embedded", "hosted"] = "hosted"
    executed: list[str] = field(default_factory=list)

    async def ensure_workflow(self, definition: Mapping[str, Any]) -> str:
        return str(definition["workflow"]["name"])

    async def execute(self, workflow_id: str, input: Mapping[str, Any], idempotency_key: str) -> str:
        self.executed.append(idempotency_key)
        return "execution"

    async def status(self, execution_id: str) -> RunStatus:
        return self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]

    async def wait(self, execution_id: str, within_s: float) -> RunStatus:
        return await self.status(execution_id)

    async def logs(self, execution_id: str) -> tuple[NodeLog, ...]:
        return ()

    async def list_executions(self, workflow_id: str) -> tuple[RunStatus, ...]:
        return ()

    async def health(self) -> None:
        return

    async def close(self) -> None:
        return


def told(status: Literal["success", "error"], *hashes: str) -> RunStatus:
    sent = tuple(SentTransaction(one, "close", "Close", 31337) for one in hashes)
    return RunStatus("execution", status, sent, error="NothingLeft()" if status == "error" else None)


async def nothing_more(run_id: str, requested: workflow.Requested, at_unix_ms: int) -> Mapping[str, str]:
    return {}


@contextlib.asynccontextmanager
async def driving(here: House, backend: Telling) -> AsyncIterator[Runs]:
    following = Following()
    made = Runs(here.keeper_log, following, backend, here.chain.rpc, 31337, nothing_more)
    task = asyncio.create_task(following.follow(here.keeper_log))
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.wait({task})


async def ended(here: House, backend: Telling) -> Ended:
    async with driving(here, backend) as made, asyncio.timeout(60):
        return await made.run(ASKED)


async def a_transaction(here: House) -> str:
    return (await here.chain.send(here.chain.admin, here.chain.payer.address, b"")).transaction


async def test_a_success_is_none_before_its_transactions_are_named_and_on_our_own_chain() -> None:
    async with house() as here:
        late = "0x" + "ab" * 32
        backend = Telling(
            [told("success"), told("success", late), told("success", await a_transaction(here))]
        )
        done = await ended(here, backend)
        assert done.confirmed
        assert backend.statuses[0].transactions[0].hash == done.transactions[0].hash != late
        assert len(backend.executed) == 1


async def test_a_failed_run_whose_transaction_nobody_ever_saw_has_sent_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runs_module, "GONE_AFTER_S", 1.0)
    monkeypatch.setattr(runs_module, "UNCONFIRMED_AFTER_S", 0.5)
    async with house() as here:
        done = await ended(here, Telling([told("error", "0x" + "ab" * 32)]))
        assert (done.confirmed, done.sent, done.code, done.retryable) == (False, False, "nothing_left", False)
        types = [item.type for item in await here.history() if item.aggregate_id == RUN_ID]
        assert types == [f"workflow.{name}.v1" for name in ("requested", "accepted", "unconfirmed", "failed")]


async def test_a_run_that_another_backend_took_is_not_executed_again() -> None:
    async with house() as here:
        command = cause(run_command_id(RUN_ID), now_ms())
        await handle(here.around.log, "workflow", RUN_ID, workflow.Request(ASKED), command)
        taken = workflow.Accept(workflow.Accepted("embedded", "elsewhere"))
        await handle(here.around.log, "workflow", RUN_ID, taken, cause("taken", now_ms()))
        backend = Telling([told("success", await a_transaction(here))])
        async with driving(here, backend) as made:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(3):
                    await made.run(ASKED)
        assert backend.executed == []
        state = await here.state("workflow", RUN_ID)
        assert state.ended is None
