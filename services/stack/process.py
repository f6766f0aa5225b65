"""One child process: started in its own group with its output in files, probed until ready, stopped.

Knows nothing of the roles. A child outlives its parent's death on purpose: work in flight is not lost with a
supervisor, and the register finds it again.
"""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from services.stack.identity import Identity, identify, lives, signal_group
from services.stack.readiness import PROBE_EVERY_S, Learned, Output, Probe


@dataclass(frozen=True)
class Process:
    """What to run. `env` is the whole environment; times in seconds."""

    name: str
    argv: tuple[str, ...]
    ready: Probe | None = None
    env: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    cwd: Path | None = None
    ready_within_s: float = 60.0
    stop_signal: signal.Signals = signal.SIGTERM
    stop_within_s: float = 15.0


class NotReady(Exception):
    """process_not_ready: a child ended or was not ready in time; the message has the end of its log."""

    code = "process_not_ready"


class Running:
    """A started Process. `learned` is what its probe found."""

    def __init__(self, spec: Process, child: asyncio.subprocess.Process, identity: Identity, output: Output):
        self.spec = spec
        self.child = child
        self.identity = identity
        self.output = output
        self.started_unix_s = time.time()
        self.learned: Learned = {}

    @property
    def exit_status(self) -> int | None:
        return self.child.returncode

    async def until_ready(self) -> None:
        """Raises NotReady."""
        if self.spec.ready is None:
            return
        deadline = time.monotonic() + self.spec.ready_within_s
        while True:
            learned = await self.spec.ready(self.output)
            if learned is not None:
                self.learned = learned
                return
            if self.exit_status is not None:
                raise NotReady(self._account(f"ended with {self.exit_status} before it was ready"))
            if time.monotonic() > deadline:
                raise NotReady(self._account(f"was not ready within {self.spec.ready_within_s:.0f} s"))
            await asyncio.sleep(PROBE_EVERY_S)

    async def stop(self) -> int:
        """Asks, waits, then kills; returns the exit status."""
        signal_group(self.identity, self.spec.stop_signal)
        try:
            await asyncio.wait_for(asyncio.shield(self.child.wait()), self.spec.stop_within_s)
        except TimeoutError:
            signal_group(self.identity, signal.SIGKILL)
        return await self.child.wait()

    def _account(self, what: str) -> str:
        end = "\n".join("  " + line for line in self.output.text().splitlines()[-15:])
        return f"{self.spec.name} {what}; the end of {self.output.stderr}:\n{end or '  (it wrote nothing)'}"


async def start(spec: Process, logs: Path) -> Running:
    """Starts without waiting. Raises NotReady when the program cannot be run at all."""
    logs.mkdir(parents=True, exist_ok=True, mode=0o700)
    output = Output(logs / f"{spec.name}.out", logs / f"{spec.name}.log")
    if output.stderr.exists():
        output.stderr.replace(logs / f"{spec.name}.log.1")
    with output.stdout.open("wb") as out, output.stderr.open("wb") as err:
        try:
            child = await asyncio.create_subprocess_exec(
                *spec.argv,
                cwd=spec.cwd,
                env=dict(spec.env),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        except OSError as missing:
            why = f"{spec.name} cannot be started: {missing}; `computepool doctor` says what is missing"
            raise NotReady(why) from missing
    identity = identify(child.pid, spec.argv)
    if identity is None:
        await child.wait()
        identity = Identity(child.pid, "ended", spec.argv)
    return Running(spec, child, identity, output)


async def end(known: Identity, first: signal.Signals = signal.SIGTERM, within_s: float = 15.0) -> bool:
    """Stops a process that is not our child, if it is still the one meant; False: it was gone already."""
    if not signal_group(known, first):
        return False
    deadline = time.monotonic() + within_s
    while lives(known):
        if time.monotonic() > deadline:
            signal_group(known, signal.SIGKILL)
        await asyncio.sleep(PROBE_EVERY_S)
    return True
