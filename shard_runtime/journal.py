"""What a worker must still know after a crash: generations it began and ended, slices it holds.

Knows nothing of NATS or of what a command means beyond its ids; never holds a prompt, an answer or a key.
"""

import contextlib
import os
from pathlib import Path
from typing import Literal

import msgspec

from shard_runtime.messages import Command, Generate, LoadSlice, decode_command, encode

KEEP = 20_000
"""Generations remembered; a command older than that is long gone from the queue."""


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One generation's state: enough to report it as lost after a crash."""

    command_id: str
    state: Literal["begun", "ended"]
    pool_id: str
    epoch: int
    session_id: str
    request_id: str


class Journal:
    """`generations.jsonl` (append-only) and `slices.json` (replaced whole) in `state_dir`, both fsynced."""

    def __init__(self, state_dir: Path) -> None:
        state_dir.mkdir(parents=True, exist_ok=True)
        self._path, self._slices_path = state_dir / "generations.jsonl", state_dir / "slices.json"
        self._entries: dict[str, Entry] = {}
        self._read()
        self._file = self._path.open("ab", buffering=0)

    def state(self, command_id: str) -> Literal["begun", "ended"] | None:
        entry = self._entries.get(command_id)
        return None if entry is None else entry.state

    def write(self, command: Generate, state: Literal["begun", "ended"]) -> None:
        """Durable when it returns. Blocks for one fsync: call it off the event loop."""
        entry = Entry(
            command.command_id, state, command.pool_id, command.epoch, command.session_id, command.request_id
        )
        self._file.write(encode(entry) + b"\n")
        os.fsync(self._file.fileno())
        self._entries[entry.command_id] = entry

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
                entry = msgspec.json.decode(line, type=Entry)
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
