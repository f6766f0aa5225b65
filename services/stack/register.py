"""What runs in a state directory: `stack.json`, written atomically by the one supervisor that owns it.

Knows nothing of how processes are started; readers (`ps`, `down`, `doctor`) get what stood there last.
"""

import fcntl
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec

from services.stack.identity import Identity, lives
from services.whole_file import write_whole

Phase = Literal["starting", "ready", "failed", "stopping", "stopped"]


class Entry(msgspec.Struct, frozen=True):
    """One process. `exit_status` as a shell counts it; negative: ended by that signal; None while it runs."""

    name: str
    identity: Identity
    log: str
    started_unix_s: float
    address: str = ""
    exit_status: int | None = None
    stop_signal: int = signal.SIGTERM

    def state(self) -> str:
        if self.exit_status is not None:
            return f"exited ({self.exit_status})"
        return "running" if lives(self.identity) else "gone"


class StackRecord(msgspec.Struct, frozen=True):
    """`detail` says what the phase cannot: which step it is at, or why it failed. `environment` is what a
    client of the stack needs (addresses, never a secret)."""

    supervisor: Identity | None = None
    phase: Phase = "stopped"
    detail: str = ""
    environment: dict[str, str] = {}
    processes: tuple[Entry, ...] = ()


class StackBusy(Exception):
    """stack_busy: another supervisor owns this state directory; `computepool down` stops it."""

    code = "stack_busy"


def path_of(state_dir: Path) -> Path:
    return state_dir / "stack.json"


def read(state_dir: Path) -> StackRecord:
    """An empty record when nothing was ever started here or the file is unreadable."""
    try:
        return msgspec.json.decode(path_of(state_dir).read_bytes(), type=StackRecord)
    except (OSError, msgspec.MsgspecError):
        return StackRecord()


def write(state_dir: Path, record: StackRecord) -> None:
    write_whole(path_of(state_dir), msgspec.json.format(msgspec.json.encode(record), indent=1))


@contextmanager
def owned(state_dir: Path) -> Iterator[None]:
    """Holds the state directory for one supervisor; the kernel gives it back when that process dies.

    Raises StackBusy.
    """
    state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (state_dir / "stack.lock").open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as busy:
            raise StackBusy(f"another supervisor owns {state_dir}; `computepool down` stops it") from busy
        yield
