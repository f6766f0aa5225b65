"""A statement's signature names its signer to anyone, and nothing else passes for one."""

import hashlib

import pytest
from eth_account import Account
from eth_keys.datatypes import Signature
from hypothesis import given
from hypothesis import strategies as st

from shard_runtime.signing import DOMAIN, ReceiptKey, Signers, signer_of

SECRETS = [bytes([number]) * 32 for number in (1, 2, 3)]
KEYS = [ReceiptKey(secret) for secret in SECRETS]
ADDRESSES = tuple(key.address for key in KEYS)


def test_an_address_is_the_one_that_the_registration_names() -> None:
    assert [Account.from_key(secret).address.lower() for secret in SECRETS] == list(ADDRESSES)


def test_anyone_can_tell_the_signer_with_another_library() -> None:
    said = DOMAIN + b"[]"
    signature = Signature(bytes.fromhex(KEYS[0].sign(said)))
    recovered = signature.recover_public_key_from_msg_hash(hashlib.sha256(said).digest())
    assert recovered.to_address() == ADDRESSES[0]


@given(said=st.binary(max_size=200), stage=st.integers(0, 2), other=st.integers(1, 2))
def test_a_signature_passes_for_its_signer_alone(said: bytes, stage: int, other: int) -> None:
    signature = KEYS[stage].sign(said)
    signers = Signers(tuple(address.upper().replace("0X", "0x") for address in ADDRESSES))
    for _ in range(2):  # the first time the address is derived, then the key is known
        assert signers.signed(stage, said, signature)
        assert not signers.signed((stage + other) % 3, said, signature)
        assert not signers.signed(stage, said + b"\0", signature)


@given(flip=st.integers(0, 65 * 8 - 1))
def test_a_flipped_bit_is_another_signer_or_none(flip: int) -> None:
    raw = bytearray.fromhex(KEYS[0].sign(b"said"))
    raw[flip // 8] ^= 1 << flip % 8
    assert signer_of(b"said", raw.hex()) != ADDRESSES[0]


@pytest.mark.parametrize("noise", ["", "00", "00" * 65, "ff" * 65, "00" * 64, "zz" * 65, "é" * 130])
def test_noise_is_nobodys(noise: str) -> None:
    assert signer_of(b"said", noise) is None
    assert not Signers(ADDRESSES).signed(0, b"said", noise)


def test_a_member_without_a_key_can_say_nothing() -> None:
    assert not Signers(("",)).signed(0, b"said", KEYS[0].sign(b"said"))


@pytest.mark.parametrize("secret", [b"", bytes(32), b"\xff" * 32, b"1" * 33])
def test_what_is_no_private_key_is_refused(secret: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        ReceiptKey(secret)
