"""An operator's own machine by the command line alone: it joins a network and shows what it loads."""

import asyncio
import os
import pty
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from services.local_pool import form_pool
from services.stack.node import ROOT, worker_environment
from tests.contract.gateway_house import until
from tests.e2e.network import MODEL, POOL, Network, network
from tests.ring import free_port

pytestmark = [pytest.mark.asyncio, pytest.mark.long, pytest.mark.timeout(900)]

PATIENCE_S = 180.0


class Run:
    """`computepool worker run` of a directory; `seen` is what its standard output showed."""

    def __init__(self, process: asyncio.subprocess.Process, read_from: int) -> None:
        self.process, self._read_from, self._seen = process, read_from, bytearray()
        os.set_blocking(read_from, False)

    @property
    def seen(self) -> str:
        try:
            while more := os.read(self._read_from, 65536):
                self._seen += more
        except OSError:  # nothing there now, or the terminal's other end is closed
            pass
        return self._seen.decode(errors="replace")

    async def shows(self, pattern: str) -> None:
        """Wait until it does. Raises AssertionError with all it showed."""

        async def shown() -> bool:
            assert self.process.returncode is None, self.seen
            return re.search(pattern, self.seen) is not None

        try:
            await until(shown, PATIENCE_S)
        except AssertionError as missing:
            raise AssertionError(f"{pattern!r} is not in {self.seen!r}") from missing


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Run]:
    """On a terminal of its own."""
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.cli", "worker", "run", "--dir", str(directory)),
        cwd=ROOT,
        env={**worker_environment(), "TERM": "xterm", "COLUMNS": "120"},
        stdout=theirs,
        stderr=asyncio.subprocess.STDOUT,
    )
    os.close(theirs)
    try:
        yield Run(process, ours)
    finally:
        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.wait(), PATIENCE_S)
        os.close(ours)


async def cli(net: Network, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.cli", *arguments),
        cwd=ROOT,
        env={
            **worker_environment(),
            "COMPUTEPOOL_GATEWAY_URL": net.settings.public_url,
            "COMPUTEPOOL_TOKEN": net.operator,
        },
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode == 0
    return out.decode()


async def test_a_joined_machine_shows_what_it_loads_and_stands_in_the_map(tmp_path: Path) -> None:
    async with network(tmp_path / "state") as net:
        third = tmp_path / "third"
        url, nats = net.settings.public_url, str(net.settings.nats_url)
        listen, api_port = f"tls://127.0.0.1:{free_port()}", str(free_port())
        await cli(
            net,
            *("worker", "join", "--gateway", url, "--nats", nats, "--label", "third", "--dir", str(third)),
            *("--listen", listen, "--api-port", api_port, "--model-dir", str(MODEL.parent)),
        )
        async with running(third) as run:
            await run.shows("node of .* runs")
            await form_pool(url, net.operator, [third], MODEL, name="alone")
            await run.shows("every tensor is the agreed one")
            assert re.search(r"loading layers 0-\d+ of ", run.seen)
            assert "\x1b[" in run.seen
            assert "━" in run.seen
            both = await cli(net, "pools", "map")
            assert re.search(r"^third +E#+H 0-\d+ +ready ", both, re.M), both
            assert re.search(r"^north +E?[#.]+H? +\d+-\d+ +ready ", both, re.M), both
            assert both.count("every layer is served") == 2
            assert max(map(len, both.splitlines())) <= 80
            one = await cli(net, "pools", "map", POOL)
            assert "third" not in one
