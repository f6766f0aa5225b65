"""A runner in a process of its own that ends itself by SIGKILL at a chosen boundary; knows no test.

A boundary is a moment before or after the journal writes, and the one after a transaction was handed over.
"""

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from services.chain.rpc import connected
from services.chain.sender import Entry as SentEntry
from services.chain.sender import Sender
from services.credentials import engine_of
from services.keeper.runner.actions.step import Signing
from services.keeper.runner.journal import Begun, End, Entry, Journal
from services.keeper.runner.runner import Runner
from tests.anvil import LOCAL
from tests.workflow_world import SENDER

WITHIN_S = 120.0


@dataclass(frozen=True)
class Task:
    """What the process is to run, and at which boundary it ends."""

    database_url: str
    rpc_url: str
    callback_url: str
    definition: Mapping[str, Any]
    input: Mapping[str, str]
    key: str
    boundary: int


class Boundaries:
    def __init__(self, last: int) -> None:
        self._left = last

    def pass_one(self) -> None:
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1


class KilledJournal(Journal):
    def __init__(self, engine: AsyncEngine, boundaries: Boundaries) -> None:
        super().__init__(engine)
        object.__setattr__(self, "boundaries", boundaries)

    async def begin(self, new: Begun, key: str, trigger: Entry) -> tuple[Begun, bool]:
        self.boundaries.pass_one()  # type: ignore[attr-defined]
        begun = await super().begin(new, key, trigger)
        self.boundaries.pass_one()  # type: ignore[attr-defined]
        return begun

    async def record(self, execution_id: str, entries: Sequence[Entry], end: End | None = None) -> None:
        self.boundaries.pass_one()  # type: ignore[attr-defined]
        await super().record(execution_id, entries, end)
        self.boundaries.pass_one()  # type: ignore[attr-defined]


class KilledSender(Sender):
    boundaries: Boundaries

    async def submit(self, intent: str, to: str, data: bytes, **more: Any) -> SentEntry:
        entry = await super().submit(intent, to, data, **more)
        self.boundaries.pass_one()
        return entry


def run(task: Task) -> None:
    """The process's body: exit code 0 when no boundary was left to end at."""
    asyncio.run(_run(task))


async def _run(task: Task) -> None:
    boundaries, engine = Boundaries(task.boundary), engine_of(task.database_url)
    async with connected(task.rpc_url) as rpc:
        sender = KilledSender(rpc, LOCAL, SENDER, engine)
        sender.boundaries = boundaries
        runner = Runner(
            engine,
            rpc=rpc,
            network=LOCAL,
            sender=sender,
            http_allowed=(task.callback_url,),
            signing=Signing(task.callback_url, "key-1", b"secret"),
            journal=KilledJournal(engine, boundaries),
        )
        workflow = await runner.ensure_workflow(task.definition)
        await runner.wait(await runner.execute(workflow, task.input, task.key), WITHIN_S)
        await runner.close()
    await engine.dispose()
