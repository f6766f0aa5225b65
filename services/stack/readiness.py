"""How a started process shows that it is ready: a port, an HTTP answer, a line of its log, printed JSON.

Knows nothing of which process that is. A probe answers None until it sees it, then what it learned.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson

Learned = dict[str, Any]
PROBE_EVERY_S = 0.03


@dataclass(frozen=True)
class Output:
    """Where a process writes: `stdout` and `stderr` are files of this run only."""

    stdout: Path
    stderr: Path

    def text(self) -> str:
        return "\n".join(p.read_text(errors="replace") for p in (self.stdout, self.stderr) if p.exists())


Probe = Callable[[Output], Awaitable[Learned | None]]


def tcp(host: str, port: int) -> Probe:
    async def probe(_: Output) -> Learned | None:
        try:
            _reader, writer = await asyncio.open_connection(host, port)
        except OSError:
            return None
        writer.close()
        return {}

    return probe


def http(url: str, status: int = 200) -> Probe:
    async def probe(_: Output) -> Learned | None:
        try:
            async with httpx.AsyncClient(timeout=2, trust_env=False) as client:
                answer = await client.get(url)
        except httpx.HTTPError:
            return None
        return {} if answer.status_code == status else None

    return probe


def log_line(pattern: str) -> Probe:
    """Named groups of the pattern are what is learned."""
    expression = re.compile(pattern)

    async def probe(output: Output) -> Learned | None:
        found = expression.search(output.text())
        return dict(found.groupdict()) if found else None

    return probe


def json_line(key: str) -> Probe:
    """The first whole line on stdout that is a JSON object with `key`."""

    async def probe(output: Output) -> Learned | None:
        if not output.stdout.exists():
            return None
        for line in output.stdout.read_bytes().split(b"\n")[:-1]:
            try:
                said = orjson.loads(line)
            except orjson.JSONDecodeError:
                continue
            if isinstance(said, dict) and key in said:
                return said
        return None

    return probe
