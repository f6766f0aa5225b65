"""EIP-712 typed data: digest, signing, recovery; knows nothing of what is signed. Source: EIP-712."""

from typing import Any

from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_keys.exceptions import BadSignature
from eth_utils.crypto import keccak
from hexbytes import HexBytes


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
