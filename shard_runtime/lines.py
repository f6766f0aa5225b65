"""A file of JSON lines that survives a crash and does not grow for ever; knows nothing of what they say."""

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

T = TypeVar("T")


class Lines(Generic[T]):
    """`path`, fsynced at every line. Not for two threads at once.

    `take` hears of every line, first of those that are there. With `3 * keep` lines, and at the start with
    more than twice `keep` or one that a crash cut off, the file is written anew with what is `remembered`.
    """

    def __init__(
        self,
        path: Path,
        kind: type[T],
        keep: int,
        take: Callable[[T], None],
        remembered: Callable[[], Iterable[T]],
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._keep, self._take, self._remembered = path, keep, take, remembered
        self._count = 0
        content = path.read_bytes() if path.is_file() else b""
        for line in content.splitlines():
            self._count += 1
            with contextlib.suppress(msgspec.DecodeError):  # the last line of a crash may be cut off
                take(msgspec.json.decode(line, type=kind))
        if self._count > 2 * keep or (content and not content.endswith(b"\n")):
            self._write_anew()
        self._file = path.open("ab", buffering=0)

    def append(self, entry: T) -> None:
        """Durable when it returns, and before `take` hears of it; blocks for an fsync. Raises OSError."""
        self._file.write(msgspec.json.encode(entry) + b"\n")
        os.fsync(self._file.fileno())
        self._count += 1
        self._take(entry)
        if self._count >= 3 * self._keep:
            self._file.close()
            self._write_anew()
            self._file = self._path.open("ab", buffering=0)

    def close(self) -> None:
        self._file.close()

    def _write_anew(self) -> None:
        lines = [msgspec.json.encode(entry) + b"\n" for entry in self._remembered()]
        replace_file(self._path, b"".join(lines))
        self._count = len(lines)


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
