"""Bodies by the SHA-256 of their bytes, one file each, checked when read back. Knows no content."""

import hashlib
import re
from pathlib import Path

from services.kept_file import kept

_HASH = re.compile(r"^[0-9a-f]{64}$")


class BlobMissing(Exception):
    """blob_missing: no body of this hash is kept here, or not the one that was stored; fetch it again."""

    code = "blob_missing"


class Blobs:
    """A directory. Several processes may use it at once: a name has one content."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def put(self, body: bytes) -> str:
        """Its hash. On disk when this returns."""
        name = hashlib.sha256(body).hexdigest()
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if kept(self._directory / name, lambda: body) != body:
            (self._directory / name).unlink(missing_ok=True)
            kept(self._directory / name, lambda: body)
        return name

    def get(self, name: str) -> bytes:
        """Raises BlobMissing."""
        if not _HASH.fullmatch(name):
            raise BlobMissing(name)
        try:
            body = (self._directory / name).read_bytes()
        except OSError as missing:
            raise BlobMissing(name) from missing
        if hashlib.sha256(body).hexdigest() != name:
            raise BlobMissing(f"{name} is damaged")
        return body
