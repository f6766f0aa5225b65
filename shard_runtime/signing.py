"""A frame's statement and its sender's signature: who said these bytes, at which step of which request.

Knows nothing of delivery or of what was computed. The key is the node's receipt key (secp256k1), bound to the
node at registration, so that anyone who holds the log can tell whose a signature is (ADR 0011).
"""

import hashlib

import msgspec
from coincurve import PrivateKey, PublicKey
from eth_hash.auto import keccak

from shard_runtime.frames import Header

DOMAIN = b"computepool/frame v1\0"
"""So that no statement can be taken for anything else this key signs (EIP-712 digests are keccak256)."""

_encode = msgspec.json.Encoder().encode


def statement(header: Header) -> bytes:
    """What a sender signs: all of the header but what differs between repetitions of the same frame."""
    return DOMAIN + _encode(
        (
            header.pool, header.epoch, header.rid, header.step, header.n, header.kind, header.from_,
            header.to, header.dtype, header.shape, header.part, header.parts, header.digest,
        )
    )  # fmt: skip


def signer_of(said: bytes, signature: str) -> str | None:
    """The address (0x, lower-case hex) whose key signed a statement; None when it is no signature at all."""
    key = _signer(said, signature)
    return None if key is None else address_of_key(key)


def digest_signer(digest: bytes, signature: str) -> str | None:
    """The address whose key signed an EIP-712 digest, as `sign_digest` does; None when it is no signature."""
    try:
        raw = bytes.fromhex(signature)
        key = PublicKey.from_signature_and_message(raw[:64] + bytes([raw[64] - 27]), digest, hasher=None)
    except (ValueError, IndexError):
        return None
    return address_of_key(key.format(compressed=False))


def address_of_key(public_key: bytes) -> str:
    """Of an uncompressed public key (65 bytes): the last 20 bytes of its keccak256."""
    return "0x" + keccak(public_key[1:])[-20:].hex()


class ReceiptKey:
    """A node's own secp256k1 key."""

    def __init__(self, secret: bytes) -> None:
        """Raises ValueError when these 32 bytes are not a private key."""
        self._key = PrivateKey(secret)
        self.address = address_of_key(self._key.public_key.format(compressed=False))

    def sign(self, said: bytes) -> str:
        """65 bytes r, s, recovery id (0 or 1), as hex; the same for the same statement (RFC 6979)."""
        return self._key.sign_recoverable(hashlib.sha256(said).digest(), hasher=None).hex()

    def sign_digest(self, digest: bytes) -> str:
        """Of an EIP-712 digest (32 bytes), as contracts recover it: 65 bytes r, low s, v (27 or 28)."""
        raw = self._key.sign_recoverable(digest, hasher=None)
        return (raw[:64] + bytes([27 + raw[64]])).hex()


class Signers:
    """Checks signatures against the addresses that a plan names."""

    def __init__(self, addresses: tuple[str, ...]) -> None:
        self._addresses = tuple(address.lower() for address in addresses)
        self._known: dict[str, bytes] = {}
        """Public keys found to be an address's: to hash a key takes longer than to recover it."""

    def signed(self, stage: int, said: bytes, signature: str) -> bool:
        """Did the member at this stage sign this statement?"""
        key = _signer(said, signature)
        if key is None:
            return False
        address = self._addresses[stage]
        known = self._known.get(address)
        if known is None and address_of_key(key) == address:
            known = self._known[address] = key
        return key == known


def _signer(said: bytes, signature: str) -> bytes | None:
    try:
        raw = bytes.fromhex(signature)
        key = PublicKey.from_signature_and_message(raw, hashlib.sha256(said).digest(), hasher=None)
    except ValueError:
        return None
    return key.format(compressed=False)
