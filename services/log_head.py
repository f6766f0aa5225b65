"""The rollback guard's memory: the last commit that this writer knows, kept in a file outside the log.

Knows nothing of NATS. A JetStream store that lost its tail after a crash says so nowhere: this file does.
"""

import os
from pathlib import Path
from typing import NamedTuple

import msgspec


class Head(NamedTuple):
    """A sequence of the log and the leaf hash (hex, `events.merkle`) of the message that stood there."""

    sequence: int
    leaf: str


class LogRolledBack(Exception):
    """log_rolled_back: the log is shorter than, or differs from, what this writer saw it acknowledge.

    Nothing is appended until the log is restored. If the log was emptied on purpose, delete the head file.
    """

    code = "log_rolled_back"


def read_head(path: Path) -> Head | None:
    """What is known, or None when nothing was ever appended from here.

    Raises LogRolledBack on a broken file.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Head)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as broken:
        raise LogRolledBack(f"{path.name} is not readable: {broken}") from broken


def write_head(path: Path, head: Head) -> None:
    """Replace what is known, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(msgspec.json.encode(head))
    os.replace(temporary, path)
