"""What only the entry node may read, encrypted to its key; knows nothing of what is done with it."""

import base64

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shard_runtime.messages import SealedContent, encode


class SealBroken(Exception):
    """seal_broken: the sealed content does not open with this node's key; ask for its current seal key."""

    code = "seal_broken"


def _seal_key(shared: bytes, ephemeral: bytes, recipient: bytes) -> bytes:
    info = b"computepool seal v1" + ephemeral + recipient
    return HKDF(hashes.SHA256(), 32, salt=None, info=info).derive(shared)


def seal_for(seal_key_hex: str, content: SealedContent, request_id: str) -> str:
    """Encrypt to an X25519 public key (hex); returns base64. Fresh ephemeral key, hence the fixed nonce."""
    recipient = bytes.fromhex(seal_key_hex)
    secret = X25519PrivateKey.generate()
    ephemeral = secret.public_key().public_bytes_raw()
    key = _seal_key(secret.exchange(X25519PublicKey.from_public_bytes(recipient)), ephemeral, recipient)
    box = ChaCha20Poly1305(key).encrypt(bytes(12), encode(content), request_id.encode())
    return base64.b64encode(ephemeral + box).decode()


def open_sealed(secret: X25519PrivateKey, sealed: str, request_id: str) -> SealedContent:
    """Raises SealBroken when the box is not for this key and this request."""
    try:
        raw = base64.b64decode(sealed, validate=True)
        ephemeral, box = raw[:32], raw[32:]
        shared = secret.exchange(X25519PublicKey.from_public_bytes(ephemeral))
        key = _seal_key(shared, ephemeral, secret.public_key().public_bytes_raw())
        opened = ChaCha20Poly1305(key).decrypt(bytes(12), box, request_id.encode())
        return msgspec.json.decode(opened, type=SealedContent)
    except (ValueError, InvalidTag, msgspec.DecodeError) as broken:
        raise SealBroken(str(broken)) from broken
