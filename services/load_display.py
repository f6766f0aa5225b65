"""What a worker says of loading, shown to whoever started it: bars on a terminal, plain lines anywhere else.

Knows the lines of the worker's log (docs/worker.md) and nothing of what writes them.
"""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TextIO

from services.block_map import size

LOOK_S = 0.1
_EVENTS = ("slice_loading", "slice_progress", "slice_loaded", "slice_failed")


class Display(Protocol):
    """`tell` takes one line of the log, of an event in `_EVENTS`."""

    def tell(self, line: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


def display_on(stream: TextIO) -> Display:
    """Bars when `stream` is a terminal."""
    return Bars(stream) if stream.isatty() else Lines(stream)


class Lines:
    """A line when a slice begins, at each quarter, and at its end."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._quarters: dict[tuple[str, int], int] = {}

    def tell(self, line: dict[str, Any]) -> None:
        key = (line["pool_id"], line["epoch"])
        if line["event"] != "slice_progress":
            self._print(sentence(line))
            self._quarters.pop(key, None)
            return
        quarter = 4 * line["bytes_done"] // max(1, line["bytes"])
        if quarter > self._quarters.get(key, 0):
            self._quarters[key] = quarter
            self._print(sentence(line))

    def close(self) -> None:
        self._stream.flush()

    def _print(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


class Bars:
    """One bar a slice, gone when the slice is loaded or failed; then a line says how it went."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        self._console = Console(file=stream, highlight=False, soft_wrap=True)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TextColumn("{task.fields[at]}", markup=False),
            console=self._console,
            transient=True,
        )
        self._tasks: dict[tuple[str, int], Any] = {}

    def tell(self, line: dict[str, Any]) -> None:
        key = (line["pool_id"], line["epoch"])
        match line["event"]:
            case "slice_progress":
                at = f"{line['tensors_done']}/{line['tensors']} {line['tensor']}"
                task = self._task(key)
                self._progress.update(task, completed=line["bytes_done"], total=line["bytes"], at=at)
            case "slice_loading":
                self._console.print(sentence(line), markup=False)
                self._task(key)
            case _:
                if key in self._tasks:
                    self._progress.remove_task(self._tasks.pop(key))
                if not self._tasks:
                    self._progress.stop()
                self._console.print(sentence(line), markup=False)

    def refresh(self) -> None:
        """Draw now; it also happens by itself, ten times a second."""
        self._progress.refresh()

    def close(self) -> None:
        self._progress.stop()

    def _task(self, key: tuple[str, int]) -> Any:
        if key not in self._tasks:
            self._progress.start()
            self._tasks[key] = self._progress.add_task(f"pool {key[0]} epoch {key[1]}", total=None, at="")
        return self._tasks[key]


def sentence(line: dict[str, Any]) -> str:
    """A line of the log for people."""
    where = f"pool {line['pool_id']} epoch {line['epoch']}"
    match line["event"]:
        case "slice_loading":
            layers = f"layers {line['first_layer']}-{line['end_layer'] - 1}"
            return f"{where}: loading {layers} of {line['model']}, weights {line['weights_digest'][:16]}"
        case "slice_progress":
            done, total = size(line["bytes_done"]), size(line["bytes"])
            counts = f"{line['tensors_done']} of {line['tensors']} tensors"
            return f"{where}: {done} of {total}, {counts}, last {line['tensor']}"
        case "slice_loaded":
            layers = f"layers {line['first_layer']}-{line['end_layer'] - 1}"
            took = f"{size(line['slice_bytes'])} in {line['load_ms'] / 1000:.1f} s"
            checked = "weights kept from before" if line["kept"] else "every tensor is the agreed one"
            return f"{where}: {layers} ready, {took}; {checked} (weights {line['weights_digest'][:16]})"
        case _:
            return f"{where}: failed, {line['code']}: {line['detail']}"


async def follow(log: Path, display: Display, over: Callable[[], bool]) -> None:
    """Tell the display each line of the log about loading, from the first; ends at the last once `over`."""
    read_to, rest = 0, b""
    try:
        while True:
            last = over()
            if log.exists():
                with log.open("rb") as file:
                    file.seek(read_to)
                    fresh = file.read()
                read_to += len(fresh)
                *lines, rest = (rest + fresh).split(b"\n")
                for line in lines:
                    if (said := _about_loading(line)) is not None:
                        display.tell(said)
            if last:
                return
            await asyncio.sleep(LOOK_S)
    finally:
        display.close()


def _about_loading(line: bytes) -> dict[str, Any] | None:
    if b'"slice_' not in line:
        return None
    try:
        said = json.loads(line)
    except ValueError:
        return None
    return said if isinstance(said, dict) and said.get("event") in _EVENTS else None
