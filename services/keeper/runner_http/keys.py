"""Who may call: organisation keys (kh_) and webhook keys (wfb_), kept as SHA-256 in one file. Knows no route.

A key is 32 random bytes, so a plain hash is enough. The file is read again when it has changed.
"""

import hashlib
import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ulid import ULID

from services.whole_file import write_whole

Kind = Literal["organisation", "webhook"]
PREFIXES: dict[Kind, str] = {"organisation": "kh_", "webhook": "wfb_"}
Scope = Literal["mcp:read", "mcp:write", "mcp:admin"]
RANK: dict[str, int] = {"mcp:read": 0, "mcp:write": 1, "mcp:admin": 2}


@dataclass(frozen=True)
class AccessKey:
    """`scope` None: unrestricted."""

    id: str
    kind: Kind
    label: str
    scope: Scope | None
    hash: str

    def may(self, wanted: Scope) -> bool:
        return self.scope is None or RANK[self.scope] >= RANK[wanted]


class AccessKeys:
    """Of one file, which need not be there: then nobody may call."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._by_hash: dict[str, AccessKey] = {}

    def issue(self, kind: Kind, label: str, scope: Scope | None = None) -> tuple[AccessKey, str]:
        """The key's token is nowhere else: it can't be shown again."""
        token = PREFIXES[kind] + secrets.token_urlsafe(32)
        key = AccessKey(str(ULID()).lower(), kind, label, scope, hash_of(token))
        self._write([*self.all(), key])
        return key, token

    def revoke(self, key_id: str) -> bool:
        """False: there is no such key."""
        kept = [key for key in self.all() if key.id != key_id]
        if len(kept) == len(self.all()):
            return False
        self._write(kept)
        return True

    def find(self, token: str) -> AccessKey | None:
        self._refresh()
        return self._by_hash.get(hash_of(token))

    def all(self) -> list[AccessKey]:
        self._refresh()
        return list(self._by_hash.values())

    def _refresh(self) -> None:
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            self._seen, self._by_hash = None, {}
            return
        if self._seen != (stat.st_mtime_ns, stat.st_ino):
            listed = [AccessKey(**entry) for entry in json.loads(self._path.read_text())]
            self._by_hash = {key.hash: key for key in listed}
            self._seen = (stat.st_mtime_ns, stat.st_ino)

    def _write(self, keys: list[AccessKey]) -> None:
        """Whole or not at all, for the owner's eyes."""
        write_whole(self._path, json.dumps([vars(key) for key in keys], indent=1).encode())


def hash_of(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
