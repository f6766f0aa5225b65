"""Whether the accused node itself said something: an answer to a probe, an account; knows no network."""

import hashlib

from eth_keys.datatypes import Signature
from eth_keys.exceptions import BadSignature
from eth_utils.exceptions import ValidationError

from shard_runtime.probes import ProbeAsked, probe_statement


def is_answer_of(receipt_key: str, node_id: str, asked: ProbeAsked, signature_hex: str | None) -> bool:
    """`receipt_key` is the address that the node proved when it registered."""
    return said_by(receipt_key, probe_statement(node_id, asked), signature_hex)


def said_by(receipt_key: str, said: bytes, signature_hex: str | None) -> bool:
    """Did this node sign these bytes? 65 bytes r, s, recovery id as hex, over their SHA-256."""
    if signature_hex is None:
        return False
    digest = hashlib.sha256(said).digest()
    try:
        signer = Signature(bytes.fromhex(signature_hex)).recover_public_key_from_msg_hash(digest)
    except (BadSignature, ValidationError, ValueError, TypeError):
        return False
    return signer.to_address().lower() == receipt_key.lower()
