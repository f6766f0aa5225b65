"""Where a contract will stand before it stands: EIP-1014 (CREATE2) and the older CREATE. Knows no chain."""

from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

DETERMINISTIC_PROXY = "0x4e59b44847b379578588920cA78FbF26c0B4956C"
"""Arachnid's proxy: calldata is 32 bytes of salt, then init code. On every chain at this address."""


def salt_of(label: str) -> bytes:
    """The salt of a name: keccak of its text, so that a manifest can be read by people."""
    return keccak(text=label)


def create2(deployer: str, salt: bytes, init_code: bytes) -> str:
    """The checksummed address of `init_code` made by `deployer` with CREATE2 (EIP-1014)."""
    made = keccak(b"\xff" + _raw(deployer) + salt + keccak(init_code))
    return to_checksum_address(made[12:])


def create(deployer: str, nonce: int) -> str:
    """The address, checksummed, of what `deployer` makes with CREATE at `nonce`; a contract's first is 1."""
    return to_checksum_address(keccak(_rlp([_raw(deployer), _minimal(nonce)]))[12:])


def _raw(address: str) -> bytes:
    return bytes.fromhex(address.removeprefix("0x"))


def _minimal(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def _rlp(items: list[bytes]) -> bytes:
    """RLP of a short list of short byte strings (below 56 bytes in all), which is all that CREATE needs."""
    body = b"".join(
        item if len(item) == 1 and item[0] < 0x80 else bytes([0x80 + len(item)]) + item for item in items
    )
    return bytes([0xC0 + len(body)]) + body
