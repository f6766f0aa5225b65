"""A file that is made once and then stays: whole and on disk before it has its name. Knows no content."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path


def kept(path: Path, make: Callable[[], bytes]) -> bytes:
    """The file's bytes; made (0600) when there is none. Of two processes the first one's is everybody's."""
    if not path.exists():
        beside = path.with_name(f"{path.name}.{os.getpid()}.{os.urandom(4).hex()}.new")
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(make())
            file.flush()
            os.fsync(file.fileno())
        try:
            with contextlib.suppress(FileExistsError):
                os.link(beside, path)
        finally:
            beside.unlink()
    return path.read_bytes()
