"""`python -m services.gateway`: the gateway's process, until SIGTERM; knows nothing of routes."""

import asyncio
import json
import signal
import sys
from types import FrameType

import structlog
import uvicorn
from fastapi import FastAPI

from services.gateway.app import create_app
from services.logging import configure
from services.settings import Settings

GRACE_S = 20
"""How long after SIGTERM open answers may take; running generations are told to end well before."""

log = structlog.get_logger("gateway")


class Server(uvicorn.Server):
    """Tells the application at once when it was asked to stop, so that streams end with a word.

    The signal is not raised again at the end, as uvicorn does: a clean stop is exit code 0.
    """

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        gateway = getattr(self.app.state, "gateway", None)
        if gateway is not None and self.loop is not None:
            self.loop.call_soon_threadsafe(gateway.stopping.set)
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        self.app = app
        self.loop: asyncio.AbstractEventLoop | None = None
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.gateway_host,
                port=settings.gateway_port,
                loop="uvloop",
                http="auto",
                access_log=False,
                log_config=None,
                server_header=False,
                timeout_graceful_shutdown=GRACE_S,
                lifespan="on",
            )
        )

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets)  # type: ignore[arg-type]
        if self.should_exit or not self.servers:
            return
        port = self.servers[0].sockets[0].getsockname()[1]
        log.info("listening", host=self.config.host, port=port)
        print(json.dumps({"listening": {"host": self.config.host, "port": port}}), flush=True)


def main() -> None:
    settings = Settings()
    configure(settings.log_level)
    server = Server(create_app(settings), settings)
    server.run()
    sys.exit(0 if server.started else 1)


if __name__ == "__main__":
    main()
