"""nkeys as text (NATS's Ed25519 key format): make a user seed, read it, spell its public key.

Knows nothing of connections or permissions. Source: NATS ADR-14 (base32 without padding, role byte,
CRC-16/XMODEM).
"""

import base64
import binascii
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.kept_file import kept

_SEED = 18 << 3
_USER = 20 << 3


class NkeyBroken(ValueError):
    """nkey_broken: the text is not a NATS user seed; make a new one, or copy the file again without line
    breaks.
    """

    code = "nkey_broken"


def new_seed() -> bytes:
    """A fresh user seed as NATS tools write it: "SU…", 58 ASCII characters."""
    prefix = bytes([_SEED | _USER >> 5, (_USER & 31) << 3])
    return _spell(prefix + Ed25519PrivateKey.generate().private_bytes_raw())


def signing_key(seed: bytes) -> Ed25519PrivateKey:
    """The private key of a user seed. Raises NkeyBroken."""
    raw = _read(seed.strip())
    if len(raw) != 34 or raw[0] & 0xF8 != _SEED or ((raw[0] & 7) << 5 | raw[1] >> 3) != _USER:
        raise NkeyBroken("not a user seed")
    return Ed25519PrivateKey.from_private_bytes(raw[2:])


def public_key(seed: bytes) -> str:
    """The public half of a user seed: "U…", 56 characters. Raises NkeyBroken."""
    return _spell(bytes([_USER]) + signing_key(seed).public_key().public_bytes_raw()).decode()


def is_public_user_key(text: str) -> bool:
    """Whether `text` is a well-formed public user key (prefix, length and checksum)."""
    try:
        raw = _read(text.encode())
    except (NkeyBroken, UnicodeEncodeError):
        return False
    return len(raw) == 33 and raw[0] == _USER


def kept_seed(path: Path) -> bytes:
    """The seed in the file at `path`; made there (0600, directory 0700) when there is none.

    Raises NkeyBroken.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    seed = kept(path, lambda: new_seed() + b"\n").strip()
    signing_key(seed)
    return seed


def _spell(body: bytes) -> bytes:
    return base64.b32encode(body + binascii.crc_hqx(body, 0).to_bytes(2, "little")).rstrip(b"=")


def _read(text: bytes) -> bytes:
    try:
        raw = base64.b32decode(text + b"=" * (-len(text) % 8))
    except binascii.Error as broken:
        raise NkeyBroken(str(broken)) from broken
    body, checksum = raw[:-2], raw[-2:]
    if not body or binascii.crc_hqx(body, 0).to_bytes(2, "little") != checksum:
        raise NkeyBroken("checksum")
    return body
