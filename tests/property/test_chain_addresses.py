"""Addresses and calldata against eth-account's and eth-utils' own, and against examples of the EIPs."""

import rlp  # type: ignore[import-untyped]
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak
from hypothesis import given
from hypothesis import strategies as st

from services.chain import abi
from services.chain.addresses import create, create2

RAW = st.binary(min_size=20, max_size=20)


@given(RAW, st.integers(0, 2**63))
def test_create_is_the_hash_of_the_rlp_of_sender_and_nonce(sender: bytes, nonce: int) -> None:
    expected = to_checksum_address(keccak(rlp.encode([sender, nonce]))[12:])
    assert create("0x" + sender.hex(), nonce) == expected


def test_create2_gives_the_examples_of_its_eip() -> None:
    beef = "0xdeadbeef00000000000000000000000000000000"
    salt = bytes.fromhex("000000000000000000000000feed000000000000000000000000000000000000")
    assert create2("0x" + "00" * 20, bytes(32), b"\0") == "0x4D1A2e2bB4F88F0250f26Ffff098B0b30B26BF38"
    assert create2(beef, bytes(32), b"\0") == "0xB928f69Bb1D91Cd65274e3c79d8986362984fDA3"
    assert create2(beef, salt, b"\0") == "0xD04116cDd17beBE565EB2422F2497E06cC1C9833"


def test_signatures_are_read_with_tuples_and_lists() -> None:
    assert abi.argument_types("owner()") == ()
    written = "open((address,uint128)[],bytes32,(bool,(int96,string)))"
    assert abi.argument_types(written) == ("(address,uint128)[]", "bytes32", "(bool,(int96,string))")
    assert abi.call("transfer(address,uint256)", "0x" + "11" * 20, 5).hex() == (
        "a9059cbb" + "00" * 12 + "11" * 20 + "00" * 31 + "05"
    )
