"""A projector's surroundings for tests: real nats-server, real PostgreSQL, a story appended to the log.

Knows nothing of what is tested.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from events.envelope import Commit
from services.log import EventLog, Writer
from services.readmodel import ReadModel
from services.settings import Settings
from tests.nats_server import NatsServer, nats_server
from tests.postgres import database

ROOT = Path(__file__).parents[1]
APPEND_AT_ONCE = 64


@dataclass
class Surroundings:
    """`settings` name the servers; `log` may append as the orchestrator."""

    nats: NatsServer
    settings: Settings
    log: EventLog
    rows: ReadModel
    _lasts: dict[str, int] = field(default_factory=dict)

    @property
    def url(self) -> str:
        assert self.settings.database_url is not None
        return self.settings.database_url.get_secret_value()

    async def append(self, commits: Iterable[Commit]) -> int:
        """In order per aggregate, many aggregates at once; the log's last sequence."""
        waiting: dict[str, asyncio.Task[None]] = {}
        free = asyncio.Semaphore(APPEND_AT_ONCE)

        async def one(commit: Commit, before: "asyncio.Task[None] | None") -> None:
            if before is not None:
                await before
            async with free:
                stored = await self.log.append(commit, self._lasts.get(commit.subject, 0))
            self._lasts[commit.subject] = stored.sequence

        tasks = []
        for commit in commits:
            task = asyncio.create_task(one(commit, waiting.get(commit.subject)))
            waiting[commit.subject] = task
            tasks.append(task)
        await asyncio.gather(*tasks)
        return await self.log.last_sequence()

    async def projector(self) -> "ProjectorProcess":
        return await ProjectorProcess.start(self)


@dataclass
class ProjectorProcess:
    """`python -m services.projector` as the product runs it; its log in `said`."""

    process: asyncio.subprocess.Process
    log_path: Path

    @classmethod
    async def start(cls, around: Surroundings) -> "ProjectorProcess":
        log_path = around.nats.directory / "projector.log"
        environment = os.environ | {
            "DATABASE_URL": around.url,
            "NATS_URL": around.settings.nats_url or "",
            "COMPUTEPOOL_STATE_DIR": str(around.settings.state_dir),
        }
        with log_path.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "services.projector", cwd=ROOT, env=environment, stdout=log, stderr=log
            )
        return cls(process, log_path)

    @property
    def said(self) -> str:
        return self.log_path.read_text()

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    async def stop(self) -> int:
        """SIGTERM; the exit status."""
        if self.process.returncode is None:
            os.kill(self.process.pid, signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), 20)

    async def ended(self, within_s: float = 30) -> int:
        return await asyncio.wait_for(self.process.wait(), within_s)


@contextlib.asynccontextmanager
async def surroundings(url: str | None = None) -> AsyncIterator[Surroundings]:
    """Everything but the projector, on its own database or on `url`; what it made is removed afterwards."""
    given = database() if url is None else contextlib.nullcontext(url)
    async with nats_server() as nats, given as url:
        settings = nats.settings.model_copy(update={"database_url": SecretStr(url)})
        client = await nats.connect("orchestrator")
        log = await EventLog.open(client, Writer.load(settings.seeds_dir / "orchestrator.nk"))
        rows = await ReadModel.open(url)
        try:
            yield Surroundings(nats, settings, log, rows)
        finally:
            await rows.close()


@contextlib.asynccontextmanager
async def projecting(around: Surroundings) -> AsyncIterator[ProjectorProcess]:
    """A running projector, killed at the end if it still runs."""
    process = await around.projector()
    try:
        yield process
    finally:
        await process.kill()


async def until(condition: Callable[[], bool], within_s: float = 20) -> None:
    """Wait for a condition. Raises TimeoutError."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)
