"""A real HTTP server that answers as KeeperHub's public documents say, and fails as networks do.

Each answer is a file of `fixtures/` that names its source. Knows nothing of the client.
"""

import asyncio
import contextlib
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FIXTURES = Path(__file__).parent / "fixtures"
HANG, DROP = "hang", "drop"
"""Taken and never answered; taken, and the connection closed without an answer."""


def fixture(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FIXTURES / f"{name}.json").read_text())
    return found


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    headers: dict[str, str]
    body: Any

    @property
    def rpc(self) -> str:
        """What an MCP request is: its method, or the tool's name."""
        called = (self.body or {}).get("params", {}).get("name")
        return called or str((self.body or {}).get("method"))


@dataclass
class Documented:
    """`say(what, *names)`: for `METHOD /path` or an MCP method or tool; the last answer is repeated."""

    port: int = 0
    asked: list[Asked] = field(default_factory=list)
    _script: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def say(self, what: str, *names: str) -> None:
        self._script[what] = list(names)

    def of(self, what: str) -> list[Asked]:
        return [one for one in self.asked if what in (f"{one.method} {one.path}", one.rpc)]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            request = await self._read(reader)
            self.asked.append(request)
            what = request.rpc if request.path == "/mcp" else f"{request.method} {request.path}"
            answers = self._script.get(what) or ["error_execution_not_found"]
            name = answers.pop(0) if len(answers) > 1 else answers[0]
            if name == HANG:
                await reader.read()  # until the client has gone
            elif name != DROP:
                number = (request.body or {}).get("id") if isinstance(request.body, dict) else None
                answer = fixture(name)
                writer.write(_bytes_of(answer, number))
                await writer.drain()
                if answer.get("stays_open"):
                    await reader.read()
        writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> Asked:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, target, _ = head[0].split(" ")
        headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])
        }
        size = int(headers.get("content-length", 0))
        body = json.loads(await reader.readexactly(size)) if size else None
        return Asked(method, target.partition("?")[0], headers, body)


def _bytes_of(answer: dict[str, Any], number: int | None) -> bytes:
    text = answer["text"] if "text" in answer else json.dumps(answer["body"])
    body = text.replace('"$id"', json.dumps(number)).replace("$id", json.dumps(number)).encode()
    headers = {"Content-Type": "application/json", **answer["headers"]}
    lines = [f"HTTP/1.1 {answer['status']} Said", *(f"{name}: {value}" for name, value in headers.items())]
    if not answer.get("stays_open"):
        lines.append(f"Content-Length: {len(body)}")
    lines += ["Connection: close", "", ""]
    return "\r\n".join(lines).encode() + body


@contextlib.asynccontextmanager
async def documented() -> AsyncIterator[Documented]:
    here = Documented()
    server = await asyncio.start_server(here.serve, "127.0.0.1", 0)
    here.port = server.sockets[0].getsockname()[1]
    try:
        yield here
    finally:
        server.close()
