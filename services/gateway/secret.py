"""The gateway's own secret: what it wrote itself, such as a quote, it recognises without storing it.

Knows nothing of what is written. Losing the file makes open quotes and session keys worthless, but no money:
payers close their sessions by their own signature.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from services.kept_file import kept

SIZE = 32


@dataclass(frozen=True)
class Secret:
    """One for all gateways of a network."""

    _key: bytes

    @classmethod
    def load_or_make(cls, path: Path) -> Self:
        """Raises OSError, ValueError (not a secret of ours)."""
        path.parent.mkdir(parents=True, exist_ok=True)
        key = kept(path, lambda: secrets.token_bytes(SIZE))
        if len(key) != SIZE:
            raise ValueError(f"{path} does not hold {SIZE} bytes")
        return cls(key)

    def mac(self, purpose: str, content: bytes) -> str:
        """HMAC-SHA256, hex. What was written for one purpose is worth nothing for another."""
        return hmac.new(self._key, purpose.encode() + b"\x00" + content, hashlib.sha256).hexdigest()

    def wrote(self, purpose: str, content: bytes, mac: str) -> bool:
        """Whether `mac` is of this content, in constant time."""
        return hmac.compare_digest(self.mac(purpose, content).encode(), mac.encode())

    def __repr__(self) -> str:
        return "Secret()"
