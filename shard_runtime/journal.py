"""What a worker must still know after a crash: generations it began and ended, slices it holds.

Knows nothing of NATS or of what a command means beyond its ids; never holds a prompt, an answer or a key.
"""

import contextlib
import os
from pathlib import Path
from threading import Lock

import msgspec

from shard_runtime.messages import Command, GenerationEnded, LoadSlice, decode_command, encode

KEEP = 5_000
"""Generations remembered; a command older than that is long gone from the queue."""


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A generation that began; with `ended`, one whose end is decided, whether or not it was reported yet."""

    command_id: str
    ended: GenerationEnded | None = None


class Journal:
    """`generations.jsonl` (append-only) and `slices.json` (replaced whole) in `state_dir`, both fsynced.

    Of generations that ended the newest `keep` are remembered, in the file at most three lines for each.
    """

    def __init__(self, state_dir: Path, keep: int = KEEP) -> None:
        state_dir.mkdir(parents=True, exist_ok=True)
        self._keep, self._lines, self._writing = keep, 0, Lock()
        self._path, self._slices_path = state_dir / "generations.jsonl", state_dir / "slices.json"
        self._entries: dict[str, _Entry] = {}
        self._read()
        self._file = self._path.open("ab", buffering=0)

    def began(self, command_id: str) -> bool:
        return command_id in self._entries

    def end_of(self, command_id: str) -> GenerationEnded | None:
        """The report of a generation whose end was decided."""
        entry = self._entries.get(command_id)
        return None if entry is None else entry.ended

    def write(self, command_id: str, ended: GenerationEnded | None = None) -> None:
        """That a generation begins, or how it ended. Durable when it returns: call it off the event loop."""
        entry = _Entry(command_id, ended)
        with self._writing:
            self._file.write(encode(entry) + b"\n")
            os.fsync(self._file.fileno())
            self._lines += 1
            self._entries.pop(command_id, None)
            self._entries[command_id] = entry
            if self._lines >= 3 * self._keep:
                self._file.close()
                self._forget_the_oldest()
                self._file = self._path.open("ab", buffering=0)

    def slices(self) -> list[LoadSlice]:
        """The slices to load again after a restart."""
        if not self._slices_path.is_file():
            return []
        kept = msgspec.json.decode(self._slices_path.read_bytes(), type=list[msgspec.Raw])
        commands: list[Command] = [decode_command(bytes(raw)) for raw in kept]
        return [command for command in commands if isinstance(command, LoadSlice)]

    def keep_slices(self, commands: list[LoadSlice]) -> None:
        """Durable when it returns; blocks for two fsyncs."""
        replace_file(self._slices_path, encode(commands))

    def close(self) -> None:
        self._file.close()

    def _read(self) -> None:
        if not self._path.is_file():
            return
        content = self._path.read_bytes()
        for line in content.splitlines():
            self._lines += 1
            with contextlib.suppress(msgspec.DecodeError):  # the last line of a crash may be cut off
                entry = msgspec.json.decode(line, type=_Entry)
                self._entries.pop(entry.command_id, None)
                self._entries[entry.command_id] = entry
        if self._lines > 2 * self._keep or (content and not content.endswith(b"\n")):
            self._forget_the_oldest()

    def _forget_the_oldest(self) -> None:
        """Of those that ended; one that runs is remembered until it has."""
        over = [command_id for command_id, entry in self._entries.items() if entry.ended is not None]
        for command_id in over[: max(0, len(over) - self._keep)]:
            del self._entries[command_id]
        replace_file(self._path, b"".join(encode(entry) + b"\n" for entry in self._entries.values()))
        self._lines = len(self._entries)


def replace_file(path: Path, content: bytes) -> None:
    """Durable when it returns, whole or not at all; blocks for two fsyncs."""
    new = path.with_suffix(".new")
    with new.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
