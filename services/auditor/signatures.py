"""Checks a writer's Ed25519 signature over one stored commit; knows nothing of NATS connections or of roles.

A writer's key is a NATS user key: "U" and base32 of role byte, 32 key bytes, CRC-16/XMODEM (NATS ADR-14).
"""

import base64
import binascii
from collections.abc import Mapping

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from events.envelope import HEADER_SIGNATURE, HEADER_WRITER, signing_bytes

_USER = 20 << 3


class SignatureInvalid(Exception):
    """signature_invalid: the commit was not signed by the writer it names, or was altered after signing."""

    code = "signature_invalid"


def public_key_of(writer: str) -> Ed25519PublicKey:
    """The key behind "U…". Raises SignatureInvalid."""
    try:
        raw = base64.b32decode(writer + "=" * (-len(writer) % 8))
    except (binascii.Error, ValueError) as broken:
        raise SignatureInvalid(f"writer {writer!r}") from broken
    body, checksum = raw[:-2], raw[-2:]
    if len(body) != 33 or body[0] != _USER or binascii.crc_hqx(body, 0).to_bytes(2, "little") != checksum:
        raise SignatureInvalid(f"writer {writer!r}")
    return Ed25519PublicKey.from_public_bytes(body[1:])


def check_signature(subject: str, headers: Mapping[str, str], payload: bytes) -> str:
    """The writer's public key, if its signature covers exactly this commit. Raises SignatureInvalid."""
    writer = headers.get(HEADER_WRITER, "")
    expected = headers.get("Nats-Expected-Last-Subject-Sequence", "")
    if not expected.isdecimal():
        raise SignatureInvalid("no expected sequence")
    digest = signing_bytes(subject, headers.get("Nats-Msg-Id", ""), int(expected), payload)
    try:
        public_key_of(writer).verify(bytes.fromhex(headers.get(HEADER_SIGNATURE, "")), digest)
    except (InvalidSignature, ValueError) as broken:
        raise SignatureInvalid(f"signature of {writer or 'nobody'}") from broken
    return writer
