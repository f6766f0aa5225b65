"""How far a recomputation is, shown to whoever waits for it: a bar on a terminal, quarters anywhere else."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from services.verifier.recomputing import Told
from shard_runtime.recomputed import Progress


@contextmanager
def shown_on(stream: TextIO) -> Iterator[Told]:
    """Nothing is printed when nothing has to be computed."""
    if not stream.isatty():
        yield _Quarters(stream)
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(file=stream), transient=True) as bar:
        task = bar.add_task("computing again", total=None, visible=False)

        def told(progress: Progress) -> None:
            bar.update(task, completed=progress.done, total=progress.passes, visible=True)

        yield told


class _Quarters:
    def __init__(self, stream: TextIO) -> None:
        self._stream, self._quarter = stream, 0

    def __call__(self, progress: Progress) -> None:
        quarter = 4 * progress.done // max(1, progress.passes)
        if quarter > self._quarter:
            self._quarter = quarter
            text = f"computing again: {progress.done} of {progress.passes} passes"
            print(text, file=self._stream, flush=True)
