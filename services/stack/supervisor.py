"""Owns the processes of one state directory: starts them, records how they end, stops them in reverse.

Knows nothing of the roles, and restarts nothing: what ended stays ended and is named as such by `ps`.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import psutil

from services.stack import process, register
from services.stack.failure import causes
from services.stack.identity import STACK_MARK, Identity, identify, lives, marked
from services.stack.process import NotReady, Process, Running
from services.stack.register import Entry, Phase, StackRecord

WATCH_EVERY_S = 0.2


class StackSurvivors(Exception):
    """stack_survivors: processes of an earlier run outlived its supervisor; `computepool down` stops them."""

    code = "stack_survivors"


@dataclass
class _Held:
    """`running` is None for a server that starts itself (PostgreSQL): `stop` stops it."""

    entry: Entry
    running: Running | None
    stop: Callable[[], Awaitable[None]]


class Supervisor:
    """Use through `supervising`. Every change is on disk before the next step begins."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.logs = state_dir / "logs"
        self.environment: dict[str, str] = {}
        self._held: dict[str, _Held] = {}
        self._phase: Phase = "starting"
        self._detail = ""
        self.failure = ""
        """Why the stack is being taken down, when nobody asked for it."""

    def say(self, phase: Phase, detail: str = "") -> None:
        self._phase, self._detail = phase, detail
        self.record()

    def record(self) -> None:
        mine = identify_self()
        entries = tuple(held.entry for held in self._held.values())
        register.write(
            self.state_dir, StackRecord(mine, self._phase, self._detail, dict(self.environment), entries)
        )

    def running(self, name: str) -> Running:
        found = self._held[name].running
        if found is None:
            raise KeyError(name)
        return found

    def entries(self) -> tuple[Entry, ...]:
        return tuple(held.entry for held in self._held.values())

    def alive(self) -> tuple[Entry, ...]:
        """Those of `entries` that still run."""
        return tuple(entry for entry in self.entries() if lives(entry.identity))

    async def start(self, spec: Process, *, wait: bool = True) -> Running:
        """Raises NotReady; the process stays recorded, so that it is stopped too."""
        earlier = self._held.get(spec.name)
        if earlier and not self._note_exit(earlier) and earlier.entry.exit_status is None:
            raise NotReady(f"{spec.name} runs already (pid {earlier.entry.identity.pid})")
        mark = {STACK_MARK: str(self.state_dir.resolve())}
        running = await process.start(replace(spec, env={**spec.env, **mark}), self.logs)
        log = str(running.output.stderr)
        entry = Entry(spec.name, running.identity, log, running.started_unix_s, stop_signal=spec.stop_signal)

        async def stop() -> None:
            await running.stop()

        self._held[spec.name] = _Held(entry, running, stop)
        self.record()
        if wait:
            await running.until_ready()
        return running

    def adopt(
        self, name: str, pid: int, log: Path, stop: Callable[[], Awaitable[None]], stop_signal: signal.Signals
    ) -> None:
        """Record a server that was started by other means; `stop` ends it, the signal when we are gone."""
        known = identify(pid, _command_line(pid))
        if known is None:
            raise NotReady(f"{name} (pid {pid}) is not there; see {log}")
        entry = Entry(name, known, str(log), time.time(), stop_signal=stop_signal)
        self._held[name] = _Held(entry, None, stop)
        self.record()

    async def stop(self, name: str) -> None:
        """Ends one process and keeps its exit status on record."""
        held = self._held[name]
        await held.stop()
        self._note_exit(held)
        self.record()

    async def stop_all(self) -> None:
        """In reverse order of start; one that fails to stop does not keep the others alive."""
        self.say("stopping", self.failure)
        failures = []
        for held in reversed(self._held.values()):
            try:
                await held.stop()
            except Exception as failure:
                failures.append(f"{held.entry.name}: {failure}")
            self._note_exit(held)
            self.record()
        failures = [self.failure, *failures] if self.failure else failures
        self.say("failed" if failures else "stopped", "; ".join(failures))

    async def watch(self) -> None:
        """Records exits as they happen; runs until cancelled."""
        while True:
            ended = [h for h in self._held.values() if h.entry.exit_status is None and self._note_exit(h)]
            if ended:
                self.record()
            await asyncio.sleep(WATCH_EVERY_S)

    def _note_exit(self, held: _Held) -> bool:
        if held.running is not None:
            status = held.running.exit_status
        else:
            status = None if lives(held.entry.identity) else 0
        if status is None or held.entry.exit_status is not None:
            return False
        held.entry = msgspec.structs.replace(held.entry, exit_status=status)
        return True

    def note_address(self, name: str, address: str) -> None:
        held = self._held[name]
        held.entry = msgspec.structs.replace(held.entry, address=address)
        self.record()


def identify_self() -> Identity | None:
    return identify(os.getpid(), _command_line(os.getpid()))


def _command_line(pid: int) -> tuple[str, ...]:
    try:
        return tuple(psutil.Process(pid).cmdline())
    except psutil.Error:
        return ()


def survivors(state_dir: Path) -> list[Entry]:
    """Processes of this state directory that run without a supervisor: recorded ones in order of start, then
    those that only their environment betrays (started in the moment in which the supervisor was killed)."""
    record = register.read(state_dir)
    if record.supervisor and lives(record.supervisor):
        return []
    recorded = [e for e in record.processes if e.exit_status is None and lives(e.identity)]
    known = {entry.identity.pid for entry in recorded}
    unrecorded = [
        Entry(Path(found.argv[0]).name if found.argv else "?", found, "", 0.0)
        for found in marked(state_dir)
        if found.pid not in known
    ]
    return recorded + unrecorded


async def sweep(state_dir: Path) -> list[Entry]:
    """Ends every survivor, the last started first; returns what was ended."""
    found = survivors(state_dir)
    ended = [
        entry
        for entry in reversed(found)
        if await process.end(entry.identity, signal.Signals(entry.stop_signal))
    ]
    if found:
        old = register.read(state_dir)
        register.write(state_dir, StackRecord(None, "stopped", "survivors ended", old.environment, ()))
    return ended


@asynccontextmanager
async def supervising(state_dir: Path, *, sweep_first: bool = False) -> AsyncIterator[Supervisor]:
    """Own the state directory and, at the end, stop what was started.

    Raises StackBusy; StackSurvivors unless `sweep_first` ends them.
    """
    with register.owned(state_dir):
        if sweep_first:
            await sweep(state_dir)
        left = survivors(state_dir)
        if left:
            names = ", ".join(f"{entry.name} (pid {entry.identity.pid})" for entry in left)
            raise StackSurvivors(
                f"still running from an earlier start: {names}; `computepool down` ends them"
            )
        supervisor = Supervisor(state_dir)
        watcher = asyncio.create_task(supervisor.watch())
        try:
            yield supervisor
        except Exception as failure:
            supervisor.failure = causes(failure)
            raise
        finally:
            watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watcher
            await asyncio.shield(supervisor.stop_all())
