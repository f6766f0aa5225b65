"""EIP-712 typed data: made, hashed, signed, recovered; knows nothing of what is signed. Source: EIP-712."""

from collections.abc import Iterable, Mapping
from typing import Any

from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_keys.datatypes import Signature
from eth_keys.exceptions import BadSignature
from eth_utils.crypto import keccak
from eth_utils.exceptions import ValidationError
from hexbytes import HexBytes

DOMAIN_KINDS = {"name": "string", "version": "string", "chainId": "uint256", "verifyingContract": "address"}
"""What a domain may say, in the order in which it is hashed."""


def contract_domain(name: str, version: str, chain_id: int, contract: str) -> dict[str, Any]:
    """Of what one contract on one chain verifies."""
    return {"name": name, "version": version, "chainId": chain_id, "verifyingContract": contract}


def typed_data(
    domain: Mapping[str, Any], primary: str, kinds: tuple[str, ...], message: Mapping[str, Any]
) -> dict[str, Any]:
    """The document that wallets take, of one flat struct. `kinds`: of `message`'s fields, in its order.

    Raises ValueError when there are more or fewer of them.
    """
    fields = zip(message, kinds, strict=True)
    said = ((name, kind) for name, kind in DOMAIN_KINDS.items() if name in domain)
    return {
        "types": {"EIP712Domain": _typed_fields(said), primary: _typed_fields(fields)},
        "primaryType": primary,
        "domain": dict(domain),
        "message": dict(message),
    }


def typed_digest(typed: dict[str, Any]) -> bytes:
    """The 32-byte digest, keccak256(0x1901 || domain separator || struct hash)."""
    message = encode_typed_data(full_message=typed)
    return bytes(keccak(b"\x19" + message.version + message.header + message.body))


def sign_typed(account: Any, typed: dict[str, Any]) -> str:
    """65 bytes r, s, v as hex without 0x, by an eth_account account."""
    return bytes(account.sign_message(encode_typed_data(full_message=typed)).signature).hex()


def recovered_signer(typed: dict[str, Any], signature_hex: str) -> str | None:
    """The checksummed address whose key signed, or None when the signature is not one at all."""
    try:
        signature = HexBytes(signature_hex)
        return str(Account.recover_message(encode_typed_data(full_message=typed), signature=signature))
    except (ValueError, TypeError, BadSignature):
        return None


def digest_signer(digest: bytes, signature: bytes) -> str | None:
    """The address (0x, lower-case hex) whose key signed 32 bytes; None: it is no signature.

    `signature`: 65 bytes r, s, recovery id (0 or 1).
    """
    try:
        key = Signature(signature).recover_public_key_from_msg_hash(digest)
    except (BadSignature, ValidationError, ValueError, TypeError):
        return None
    return str(key.to_address().lower())


def _typed_fields(fields: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"name": name, "type": kind} for name, kind in fields]
