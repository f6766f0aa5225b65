"""What a worker must still know after a crash: generations it began and ended, slices it holds.

Knows nothing of NATS or of what a command means beyond its ids; never holds a prompt, an answer or a key.
"""

from collections.abc import Collection
from pathlib import Path
from threading import Lock

import msgspec

from shard_runtime.lines import Lines, replace_file
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
        self._keep, self._writing = keep, Lock()
        self._slices_path = state_dir / "slices.json"
        self._entries: dict[str, _Entry] = {}
        self._lines = Lines(state_dir / "generations.jsonl", _Entry, keep, self._take, self._remembered)

    def began(self, command_id: str) -> bool:
        return command_id in self._entries

    def end_of(self, command_id: str) -> GenerationEnded | None:
        """The report of a generation whose end was decided."""
        entry = self._entries.get(command_id)
        return None if entry is None else entry.ended

    def write(self, command_id: str, ended: GenerationEnded | None = None) -> None:
        """That a generation begins, or how it ended. Durable when it returns: call it off the event loop."""
        with self._writing:
            self._lines.append(_Entry(command_id, ended))

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
        self._lines.close()

    def _take(self, entry: _Entry) -> None:
        self._entries.pop(entry.command_id, None)
        self._entries[entry.command_id] = entry

    def _remembered(self) -> Collection[_Entry]:
        """Of those that ended the newest; one that runs is remembered until it has."""
        over = [command_id for command_id, entry in self._entries.items() if entry.ended is not None]
        for command_id in over[: max(0, len(over) - self._keep)]:
            del self._entries[command_id]
        return self._entries.values()
