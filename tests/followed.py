"""A command that follows something, as its user's terminal shows it. Knows no command."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from tests.contract.gateway_house import until


@dataclass
class Follower:
    """`told`: its lines of JSON; `said`: its other lines."""

    process: asyncio.subprocess.Process
    told: list[Any] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    async def read(self) -> None:
        """Until it has ended."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        said = _each(self.process.stderr, self.said.append)
        await asyncio.gather(_each(self.process.stdout, self._tell), said)

    def _tell(self, line: str) -> None:
        self.told.append(json.loads(line))

    async def until_told(self, plan: int) -> None:
        await self._until(lambda: any(row["paid_epoch"] == plan for row in self.told))

    async def until_said(self, words: str) -> None:
        await self._until(lambda: any(words in line for line in self.said))

    async def _until(self, holds: Callable[[], bool]) -> None:
        async def seen() -> bool:
            ended = self.process.returncode
            assert holds() or not ended, self.said
            return holds()

        await until(seen, 60)


Keep = Callable[[str], None]


async def _each(stream: asyncio.StreamReader, keep: Keep) -> None:
    async for line in stream:
        keep(line.decode())


@contextlib.asynccontextmanager
async def followed(process: asyncio.subprocess.Process) -> AsyncIterator[Follower]:
    """With pipes as its output. At the end a SIGTERM has to end it with success, unless it has ended."""
    found = Follower(process)
    reading = asyncio.create_task(found.read())
    try:
        yield found
        if process.returncode is None:
            process.terminate()
        assert await process.wait() == 0, found.said
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await reading
