"""The secret between those who call back and the webhook; while it rotates, the one before as well."""

import hashlib
import secrets
from dataclasses import dataclass, field
from typing import Self

from services.kept_file import kept
from services.settings import Settings

LEAST_BYTES = 32
FILE, FILE_BEFORE = "keeper-hooks.secret", "keeper-hooks.previous.secret"


class HookSecretInvalid(Exception):
    """hook_secret_invalid: the webhook's secret is empty or too short to be one."""

    code = "hook_secret_invalid"
    remedy = "Remove keys/keeper-hooks.secret: a new one is made at the next start."


@dataclass(frozen=True)
class HookSecret:
    """`key` signs; what `previous` signed is still taken."""

    key: bytes = field(repr=False)
    previous: bytes | None = field(default=None, repr=False)

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """From `<state dir>/keys`; made when there is none. Raises HookSecretInvalid."""
        directory = settings.state_dir / "keys"
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        key = kept(directory / FILE, lambda: secrets.token_hex(LEAST_BYTES).encode()).strip()
        before = directory / FILE_BEFORE
        previous = before.read_bytes().strip() if before.exists() else None
        for one in (key, previous):
            if one is not None and len(one) < LEAST_BYTES:
                raise HookSecretInvalid
        return cls(key, previous)

    @property
    def key_id(self) -> str:
        return key_id_of(self.key)

    def by_id(self, key_id: str) -> bytes | None:
        """The key that goes by this name. None: neither does."""
        known = (self.key, self.previous)
        return next((key for key in known if key is not None and key_id_of(key) == key_id), None)

    @property
    def all(self) -> tuple[bytes, ...]:
        return (self.key,) if self.previous is None else (self.key, self.previous)


def key_id_of(key: bytes) -> str:
    """Tells keys apart and nothing about them."""
    return hashlib.sha256(b"computepool hook key " + key).hexdigest()[:16]
