"""PostgreSQL itself killed under a working projector: it waits; nothing is lost, nothing is repeated."""

import asyncio
import os
import signal
import tempfile
from pathlib import Path

from services.migrate import upgrade
from services.projection_check import check
from services.stack import postgres
from tests.projecting import projecting, surroundings, until
from tests.stories import Story

KILLS = 3


async def test_a_killed_database_is_waited_for_and_agrees_afterwards() -> None:
    with tempfile.TemporaryDirectory(prefix="cp-pg-") as name:
        Path(name).chmod(0o755)
        data, log = Path(name) / "data", Path(name) / "log"
        server = await postgres.start(data, log)
        try:
            await asyncio.to_thread(upgrade, server.url())
            async with surroundings(server.url()) as around:
                story = Story(41, strange=True)
                last = await around.append(story.commits(50))
                async with projecting(around) as projector:
                    assert await around.rows.wait_for(last, 30)
                    for _ in range(KILLS):
                        appending = asyncio.create_task(around.append(story.commits(150)))
                        assert await around.rows.wait_for(last + 40, 30)
                        said = outages(projector.said)
                        os.kill(server.pid, signal.SIGKILL)
                        await until(lambda: not server.alive())  # noqa: B023
                        await appending
                        last = await around.append(story.commits(10))  # it has something to write
                        await until(lambda: outages(projector.said) > said)  # noqa: B023
                        server = await postgres.start(data, log)
                        assert await around.rows.wait_for(last, 60)
                        checked = await check(around.settings)
                        assert checked.differences == ()
                        assert checked.sequence == last
                    assert await projector.stop() == 0
        finally:
            if server.alive():
                await server.stop(immediate=True)


def outages(said: str) -> int:
    """How often the projector has said that it waits; a start-up that fails once more says it again."""
    return said.count('"event": "waiting"')
