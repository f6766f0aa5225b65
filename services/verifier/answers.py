"""Whether the accused node itself said something: an answer to a probe, an account; knows no network."""

import hashlib

from services.typed_data import digest_signer
from shard_runtime.probes import ProbeAsked, probe_statement


def is_answer_of(receipt_key: str, node_id: str, asked: ProbeAsked, signature_hex: str | None) -> bool:
    """`receipt_key` is the address that the node proved when it registered."""
    return said_by(receipt_key, probe_statement(node_id, asked), signature_hex)


def said_by(receipt_key: str, said: bytes, signature_hex: str | None) -> bool:
    """Did this node sign these bytes? 65 bytes r, s, recovery id as hex, over their SHA-256."""
    if signature_hex is None:
        return False
    try:
        signature = bytes.fromhex(signature_hex)
    except (ValueError, TypeError):
        return False
    return digest_signer(hashlib.sha256(said).digest(), signature) == receipt_key.lower()
