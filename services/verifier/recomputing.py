"""Runs a recomputation as a process of its own, so that whoever judges needs no torch; knows no evidence."""

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from shard_runtime.recomputed import Progress, Recomputed, Rerun, StagePasses

MAX_LINE = 64 * 1024
KEEP_LINES = 5
"""Of what a process that failed said last."""

Told = Callable[[Progress], None]


class NotRecomputed(Exception):
    """not_recomputed: this machine could not compute the answer again; `reason` is the code of why."""

    code = "not_recomputed"

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


async def recomputed(
    rerun: Rerun, models: Sequence[Path], told: Told = lambda progress: None
) -> tuple[StagePasses, ...]:
    """The stages' passes by a model below `models`. Raises NotRecomputed. A cancelled one is killed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "shard_runtime.recompute", *map(str, models),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, limit=MAX_LINE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        listening = asyncio.create_task(_listen(process.stderr, told))
        with contextlib.suppress(ConnectionError):  # it ended before it had read all: its answer says why
            process.stdin.write(msgspec.json.encode(rerun))
            await process.stdin.drain()
        process.stdin.close()
        said = await process.stdout.read()
        last = await listening
        await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    try:
        answer = msgspec.json.decode(said, type=Recomputed)
    except msgspec.DecodeError as broken:
        raise NotRecomputed("recomputation_failed", last or "it said nothing") from broken
    if answer.error is not None:
        raise NotRecomputed(answer.error, answer.detail)
    return answer.stages


async def _listen(stderr: asyncio.StreamReader, told: Told) -> str:
    """Until the end; the last lines that were no progress."""
    other: list[str] = []
    while True:
        try:
            line = await stderr.readline()
        except ValueError:  # a line longer than MAX_LINE is dropped
            continue
        if not line:
            return "\n".join(other)
        try:
            told(msgspec.json.decode(line, type=Progress))
        except msgspec.DecodeError:
            other = [*other, line.decode(errors="replace").rstrip()][-KEEP_LINES:]
