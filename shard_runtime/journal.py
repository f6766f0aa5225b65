"""What a worker must still know after a crash: generations it began and ended, slices it holds.

Knows nothing of NATS or of what a command means beyond its ids; never holds a prompt, an answer or a key.
"""

import contextlib
import os
from pathlib import Path

import msgspec

from shard_runtime.messages import Command, GenerationEnded, LoadSlice, decode_command, encode

KEEP = 5_000
"""Generations remembered; a command older than that is long gone from the queue."""


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A generation that began; with `ended`, one whose end is decided, whether or not it was reported yet."""

    command_id: str
    ended: GenerationEnded | None = None


class Journal:
    """`generations.jsonl` (append-only) and `slices.json` (replaced whole) in `state_dir`, both fsynced."""

    def __init__(self, state_dir: Path) -> None:
        state_dir.mkdir(parents=True, exist_ok=True)
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
        self._file.write(encode(entry) + b"\n")
        os.fsync(self._file.fileno())
        self._entries[command_id] = entry

    def slices(self) -> list[LoadSlice]:
        """The slices to load again after a restart."""
        if not self._slices_path.is_file():
            return []
        kept = msgspec.json.decode(self._slices_path.read_bytes(), type=list[msgspec.Raw])
        commands: list[Command] = [decode_command(bytes(raw)) for raw in kept]
        return [command for command in commands if isinstance(command, LoadSlice)]

    def keep_slices(self, commands: list[LoadSlice]) -> None:
        """Durable when it returns; blocks for two fsyncs."""
        _replace(self._slices_path, encode(commands))

    def close(self) -> None:
        self._file.close()

    def _read(self) -> None:
        if not self._path.is_file():
            return
        lines = self._path.read_bytes().splitlines()
        for line in lines:
            with contextlib.suppress(msgspec.DecodeError):  # the last line of a crash may be cut off
                entry = msgspec.json.decode(line, type=_Entry)
                self._entries.pop(entry.command_id, None)
                self._entries[entry.command_id] = entry
        if len(lines) > 2 * KEEP or (lines and not self._path.read_bytes().endswith(b"\n")):
            self._entries = dict(list(self._entries.items())[-KEEP:])
            _replace(self._path, b"".join(encode(entry) + b"\n" for entry in self._entries.values()))


def _replace(path: Path, content: bytes) -> None:
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
