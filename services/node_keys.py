"""The keys of one node: made once, kept in its directory (0600), and able to sign what joining asks for.

Knows nothing of the network. Four keys sign the registration challenge (mesh and NATS: Ed25519; receipt and
payout: secp256k1); a fifth, the seal key (X25519), opens sealed prompts and is bound by the same challenge.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from eth_account import Account

from events.ids import node_id_of
from services.nkey import new_seed, public_key, signing_key
from services.typed_data import sign_typed, typed_digest

MESH_KEY_FILE = "mesh.pem"
NATS_SEED_FILE = "nats.nk"
RECEIPT_KEY_FILE = "receipt.key"
SEAL_KEY_FILE = "seal.key"
PAYOUT_KEY_FILE = "payout.key"


@dataclass(frozen=True)
class NodeKeys:
    """Private keys in memory; public halves as the log and the challenge spell them."""

    mesh: Ed25519PrivateKey
    nats_seed: bytes
    receipt: Any
    seal: X25519PrivateKey
    payout: Any

    @classmethod
    def load_or_make(cls, directory: Path) -> "NodeKeys":
        """What stands in `directory`, with every missing key made; the directory is created (0700)."""
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        mesh_pem = _kept(directory / MESH_KEY_FILE, lambda: _pem(Ed25519PrivateKey.generate()))
        mesh = serialization.load_pem_private_key(mesh_pem, password=None)
        if not isinstance(mesh, Ed25519PrivateKey):
            raise ValueError(f"{directory / MESH_KEY_FILE} is not an Ed25519 key")
        return cls(
            mesh=mesh,
            nats_seed=_kept(directory / NATS_SEED_FILE, new_seed),
            receipt=Account.from_key(_kept_hex(directory / RECEIPT_KEY_FILE, lambda: os.urandom(32))),
            seal=X25519PrivateKey.from_private_bytes(
                _kept_hex(directory / SEAL_KEY_FILE, lambda: X25519PrivateKey.generate().private_bytes_raw())
            ),
            payout=Account.from_key(_kept_hex(directory / PAYOUT_KEY_FILE, lambda: os.urandom(32))),
        )

    @property
    def mesh_key(self) -> str:
        return self.mesh.public_key().public_bytes_raw().hex()

    @property
    def node_id(self) -> str:
        return node_id_of(self.mesh_key)

    @property
    def nats_key(self) -> str:
        return public_key(self.nats_seed)

    @property
    def seal_key(self) -> str:
        return self.seal.public_key().public_bytes_raw().hex()

    @property
    def receipt_key(self) -> str:
        return str(self.receipt.address)

    @property
    def payout_wallet(self) -> str:
        return str(self.payout.address)

    def sign_registration(self, typed: dict[str, Any]) -> dict[str, str]:
        """Signatures (hex) of `events.registration.registration` by all of its SIGNERS."""
        digest = typed_digest(typed)
        return {
            "mesh": self.mesh.sign(digest).hex(),
            "nats": signing_key(self.nats_seed).sign(digest).hex(),
            "receipt": sign_typed(self.receipt, typed),
            "payout": sign_typed(self.payout, typed),
        }

    def sign_acceptance(self, typed: dict[str, Any]) -> str:
        """The receipt key's signature (hex) of `events.registration.acceptance`."""
        return sign_typed(self.receipt, typed)


def _pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _kept(path: Path, make: Callable[[], bytes]) -> bytes:
    """The file's bytes; when it is missing, made, written (0600, synced, atomically) and returned."""
    if not path.exists():
        waiting = path.with_suffix(path.suffix + ".new")
        descriptor = os.open(waiting, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(make())
            file.flush()
            os.fsync(file.fileno())
        waiting.rename(path)
    return path.read_bytes().strip()


def _kept_hex(path: Path, make: Callable[[], bytes]) -> bytes:
    return bytes.fromhex(_kept(path, lambda: make().hex().encode()).decode())
