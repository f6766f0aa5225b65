"""Which process is meant: a pid with its start mark and command line, so that no stranger is ever signalled.

Knows nothing of what the process does. A pid alone is worth nothing once its process has ended.
"""

import os
import signal
from pathlib import Path

import msgspec
import psutil

STACK_MARK = "COMPUTEPOOL_STACK"
"""Environment variable of every child: the absolute state directory it belongs to."""


class Identity(msgspec.Struct, frozen=True):
    """`started`: on Linux "<boot id>:<clock ticks since boot>", elsewhere the creation time in seconds."""

    pid: int
    started: str
    argv: tuple[str, ...]


def start_mark(pid: int) -> str | None:
    """None: no such process, or only its corpse."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        if not Path("/proc/self/stat").exists():
            return str(process.create_time())
        after_name = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + ":" + after_name[19].decode()
    except (psutil.Error, OSError):
        return None


def identify(pid: int, argv: tuple[str, ...]) -> Identity | None:
    """The identity of a process just started with `argv`; None when it has already ended."""
    mark = start_mark(pid)
    return Identity(pid, mark, argv) if mark else None


def lives(known: Identity) -> bool:
    """Whether exactly this process still runs."""
    return start_mark(known.pid) == known.started


def signal_group(known: Identity, number: signal.Signals) -> bool:
    """Signal the group this process leads; False, and no signal at all, when it is not there any more."""
    if not lives(known):
        return False
    try:
        if os.getpgid(known.pid) == known.pid:
            os.killpg(known.pid, number)
        else:
            os.kill(known.pid, number)
    except ProcessLookupError:
        return False
    return True


def marked(state_dir: Path) -> list[Identity]:
    """Every process whose environment names this state directory, except the caller and its parents."""
    mine = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid in mine or process.environ().get(STACK_MARK) != str(state_dir.resolve()):
                continue
            known = identify(process.pid, tuple(process.cmdline()))
        except (psutil.Error, OSError):
            continue
        if known:
            found.append(known)
    return found
