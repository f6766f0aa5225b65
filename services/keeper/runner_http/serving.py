"""Serves KeeperHub's paths beside what else a process does, in its loop. Knows no route."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import structlog
import uvicorn
from fastapi import FastAPI

from services.keeper.runner_http.app import create_app
from services.keeper.runner_http.desk import Desk
from services.keeper.runner_http.keys import AccessKeys
from services.settings import Settings

HOST = "127.0.0.1"
"""Whoever is elsewhere comes through a proxy that speaks TLS."""
AGAIN_S = 15.0

log = structlog.get_logger("keeper")


async def serve_paths(settings: Settings, desk: Desk) -> None:
    """Forever, when a port is set. A port that is taken is waited for: money does not wait for it."""
    while settings.keeper_port is not None:
        app = create_app(desk, AccessKeys(settings.access_keys))
        try:
            async with serving(app, HOST, settings.keeper_port) as port:
                log.info("paths_served", host=HOST, port=port)
                await asyncio.get_running_loop().create_future()
        except OSError as taken:
            log.warning("paths_delayed", port=settings.keeper_port, why=str(taken))
            await asyncio.sleep(AGAIN_S)


class _Server(uvicorn.Server):
    """Signals are the process's business."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def serving(app: FastAPI, host: str, port: int) -> AsyncIterator[int]:
    """Served while inside, in this loop; gives the port, which is a free one for 0. Raises OSError."""
    config = uvicorn.Config(
        app,
        access_log=False,
        log_config=None,
        server_header=False,
        lifespan="off",
        timeout_graceful_shutdown=1,
    )
    server = _Server(config)
    listener = socket.create_server((host, port))
    task = asyncio.create_task(server.serve(sockets=[listener]), name="keeper-http")
    try:
        yield int(listener.getsockname()[1])
    finally:
        server.should_exit = True
        await task
