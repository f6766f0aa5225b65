"""What a worker is told at start: one JSON file, checked whole; knows nothing of what values are for."""

from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from shard_runtime.signing import ReceiptKey


class ConfigInvalid(Exception):
    """config_invalid: worker.json or a file it names is not as it must be; the message says which and why."""

    code = "config_invalid"


class WorkerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Relative paths are taken from the directory of worker.json."""

    node_id: str
    nats_url: str
    nats_seed_file: str
    """nkey user seed, as one line of text."""
    seal_key_file: str
    """X25519 private key, 64 hex digits."""
    receipt_key_file: str
    """secp256k1 private key, 64 hex digits: signs what this node sends to the ring."""
    axl_url: str
    state_dir: str
    axl_token: str | None = None
    model_dirs: tuple[str, ...] = ()
    allow_hub: bool = False
    kv_slots: int = 8
    """Upper bound on the KV slots a `load_slice` may ask for; 0 = no bound of our own."""
    stall_seconds: float = 15.0
    """A ring that owes a token for so long (plus a share for the prompt's length) has lost a shard."""
    drain_seconds: float = 5.0
    """On SIGTERM, how long running requests may go on."""


def read_config(path: Path) -> WorkerConfig:
    """Raises ConfigInvalid."""
    try:
        config = msgspec.json.decode(path.read_bytes(), type=WorkerConfig)
    except (OSError, msgspec.DecodeError) as bad:
        raise ConfigInvalid(f"{path.name}: {bad}") from bad
    home = path.resolve().parent
    return msgspec.structs.replace(
        config,
        nats_seed_file=str(home / config.nats_seed_file),
        seal_key_file=str(home / config.seal_key_file),
        receipt_key_file=str(home / config.receipt_key_file),
        state_dir=str(home / config.state_dir),
        model_dirs=tuple(str(home / directory) for directory in config.model_dirs),
    )


def read_seal_key(path: Path) -> X25519PrivateKey:
    """Raises ConfigInvalid."""
    try:
        return X25519PrivateKey.from_private_bytes(bytes.fromhex(path.read_text().strip()))
    except (OSError, ValueError) as bad:
        raise ConfigInvalid(f"{path.name}: an X25519 private key in hex is expected") from bad


def read_receipt_key(path: Path) -> ReceiptKey:
    """Raises ConfigInvalid."""
    try:
        return ReceiptKey(bytes.fromhex(path.read_text().strip()))
    except (OSError, ValueError) as bad:
        raise ConfigInvalid(f"{path.name}: a secp256k1 private key in hex is expected") from bad
