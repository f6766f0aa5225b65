"""A file that is written as a whole or not at all, over whatever stood there (0600). Knows no content."""

import os
from pathlib import Path


def write_whole(path: Path, body: bytes) -> None:
    """On disk under its name when this returns. Raises OSError."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
