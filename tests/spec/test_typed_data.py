"""Typed data is made as EIP-712 says; here it is hashed once more by hand."""

import pytest
from eth_utils.crypto import keccak

from services.typed_data import contract_domain, typed_data, typed_digest

CONTRACT = "0x" + "c0" * 20
MESSAGE = {"operator": "0x" + "0a" * 20, "units": 7, "why": "share"}
KINDS = ("address", "uint256", "string")


def word(hexadecimal: str) -> bytes:
    return bytes.fromhex(hexadecimal).rjust(32, b"\0")


def struct() -> bytes:
    kind = keccak(text="Seat(address operator,uint256 units,string why)")
    return keccak(kind + word("0a" * 20) + word("07") + keccak(text="share"))


def digest(separator: bytes) -> str:
    return keccak(b"\x19\x01" + separator + struct()).hex()


def test_a_contracts_domain_says_all_four_things() -> None:
    kind = keccak(text="EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)")
    separator = keccak(kind + keccak(text="Pool") + keccak(text="1") + word("7a69") + word("c0" * 20))
    typed = typed_data(contract_domain("Pool", "1", 31337, CONTRACT), "Seat", KINDS, MESSAGE)
    assert typed_digest(typed).hex() == digest(separator)


def test_a_domain_without_a_contract_says_the_other_three() -> None:
    kind = keccak(text="EIP712Domain(string name,string version,uint256 chainId)")
    separator = keccak(kind + keccak(text="Pool") + keccak(text="1") + word("7a69"))
    domain = {"chainId": 31337, "version": "1", "name": "Pool"}
    assert typed_digest(typed_data(domain, "Seat", KINDS, MESSAGE)).hex() == digest(separator)


def test_a_field_without_a_type_is_not_left_out() -> None:
    with pytest.raises(ValueError, match="shorter"):
        typed_data(contract_domain("Pool", "1", 31337, CONTRACT), "Seat", KINDS[:2], MESSAGE)
