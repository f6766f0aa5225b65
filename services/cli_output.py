"""How the command line prints: tables or JSON on stdout, failures on stderr. Knows no command."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

Models = Annotated[
    list[Path] | None,
    typer.Option(help="A directory of models to compute with; repeatable. Default: COMPUTEPOOL_MODEL_DIRS."),
]


class Failure(Exception):
    """A command that did not succeed: its code, what happened, and the line that mends it."""

    def __init__(self, code: str, text: str, remedy: str = "") -> None:
        super().__init__(text)
        self.code = code
        self.remedy = remedy


def read_file(path: Path) -> bytes:
    """Raises Failure."""
    try:
        return path.read_bytes()
    except OSError as missing:
        raise Failure("file_missing", f"{path} can't be read: {missing.strerror}") from missing


def show(renderable: Any) -> None:
    """Print a rich renderable on stdout; without a terminal the table may be as wide as it needs."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 200).print(renderable)


def table_of(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Any:
    """A plain rich table; None becomes an empty cell."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None)
    for column in columns:
        table.add_column(column.upper().replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(escape("" if cell is None else str(cell)) for cell in row))
    return table


def print_json(value: object, *, line: bool = False) -> None:
    """`line`: on one line and flushed, for who reads while more is to come."""
    import json

    print(json.dumps(value, indent=None if line else 1, ensure_ascii=False, default=str), flush=line)


def report(failure: BaseException) -> None:
    """A failure, the chain of its causes and the remedy on stderr; COMPUTEPOOL_TRACE=1 adds the traceback."""
    from services.stack.failure import causes

    if os.environ.get("COMPUTEPOOL_TRACE"):
        import traceback

        traceback.print_exception(failure)
    print(f"error: {causes(failure)}", file=sys.stderr)
