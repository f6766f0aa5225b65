"""A probe: is this node there, now? The answer is the node's receipt key over a fresh challenge.

Message shapes and the statement that is signed; knows nothing of NATS or of why somebody asks.
"""

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from shard_runtime.signing import ReceiptKey

DOMAIN = b"computepool/probe v1\0"
"""So that no answer can be taken for anything else this key signs."""


class ProbeAsked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`nonce`: 32 random bytes, hex; `attestor`: the address on whose behalf it is asked."""

    nonce: str
    attestor: str
    sent_unix_ms: int


class ProbeAnswered(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """65 bytes r, s, recovery id over SHA-256 of the statement, hex."""

    signature: str


def probe_subject(node_id: str) -> str:
    return f"cp.probe.{node_id}"


def probe_statement(node_id: str, asked: ProbeAsked) -> bytes:
    return DOMAIN + msgspec.json.encode((node_id, asked.nonce, asked.attestor.lower(), asked.sent_unix_ms))


def answer_to(raw: bytes, node_id: str, key: "ReceiptKey") -> bytes | None:
    """None for what is no well-formed probe."""
    try:
        asked = msgspec.json.decode(raw, type=ProbeAsked)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    if len(asked.nonce) != 64 or len(asked.attestor) != 42:
        return None
    return msgspec.json.encode(ProbeAnswered(key.sign(probe_statement(node_id, asked))))
