"""A real nats-server with JetStream for tests: own directory, free port, killable and restartable.

Knows nothing of what is tested. With `auth` it runs the product's own generated configuration.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import nats
from nats.aio.client import Client

from services import bus
from services.access import NatsAccess
from services.settings import Settings
from services.streams import ensure_streams
from shard_runtime.messages import inbox_prefix

BINARY = Path(sys.executable).with_name("nats-server")
READY_S = 10.0


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class NatsServer:
    """`url` to connect to; `settings` for `services.bus`; `access` when started with `auth`."""

    directory: Path
    port: int
    auth: bool
    access: NatsAccess
    settings: Settings
    process: asyncio.subprocess.Process | None = None
    _clients: list[Client] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def store_dir(self) -> Path:
        return self.directory / "jetstream"

    @property
    def log_text(self) -> str:
        return (self.directory / "server.log").read_text()

    async def start(self) -> None:
        """Until the server accepts connections. Raises RuntimeError with its log when it does not."""
        with (self.directory / "server.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                str(BINARY),
                "-c",
                str(self._conf()),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = asyncio.get_running_loop().time() + READY_S
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.close()
                return
            if self.process.returncode is not None or asyncio.get_running_loop().time() > deadline:
                raise RuntimeError(f"nats-server did not start:\n{self.log_text}")
            await asyncio.sleep(0.01)

    def _conf(self) -> Path:
        if self.auth:
            return self.access.write(port=self.port, store_dir=self.store_dir)
        path = self.directory / "open.conf"
        path.write_text(
            f'listen: "127.0.0.1:{self.port}"\n'
            f'jetstream {{ store_dir: "{self.store_dir}", sync_interval: always }}\n'
        )
        return path

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone; the data stays."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """SIGTERM, and wait until it is gone; the data stays."""
        await self._end(signal.SIGTERM)

    async def _end(self, number: int) -> None:
        if self.process is not None and self.process.returncode is None:
            os.kill(self.process.pid, number)
            await self.process.wait()

    async def connect(self, role: str = "admin", member: str | None = None, url: str | None = None) -> Client:
        """A client of one role (any name when the server has no auth), closed with the server.

        A worker's seed is expected as `<seeds_dir>/worker-<member>.nk`.
        """
        member = member or role
        if self.auth and role != "worker" and url is None:
            client = await bus.connect(self.settings, role)
        elif self.auth:
            name = f"worker-{member}" if role == "worker" else role
            client = await bus.connect_with_seed(
                url or self.url,
                (self.settings.seeds_dir / f"{name}.nk").read_text().strip(),
                inbox=inbox_prefix(role, member),
                name=name,
                first_connect_s=5,
            )
        else:
            client = await nats.connect(
                url or self.url,
                inbox_prefix=inbox_prefix(role, member),
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.1,
            )
        self._clients.append(client)
        return client

    async def close_clients(self) -> None:
        """Close every client that `connect` made."""
        for client in self._clients:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(client.close(), 2)
        self._clients.clear()


@contextlib.asynccontextmanager
async def nats_server(*, auth: bool = True, streams: bool = True) -> AsyncIterator[NatsServer]:
    """A running server, by default with the product's roles and streams; everything is removed afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="cp-nats-"))
    port = free_port()
    settings = Settings(state_dir=directory / "state", nats_url=f"nats://127.0.0.1:{port}")
    server = NatsServer(directory, port, auth, NatsAccess.of(settings), settings)
    try:
        await server.start()
        if streams:
            admin = await server.connect("admin")
            await ensure_streams(admin, 1)
        yield server
    finally:
        await server.close_clients()
        await server.stop()
        shutil.rmtree(directory, ignore_errors=True)
