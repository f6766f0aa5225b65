"""A paying client's limits, and where its key comes from."""

import json
from pathlib import Path

import pytest
from eth_account import Account

from services.facilitator.shapes import Required, Requirements, Resource
from services.payer import PASSWORD_VARIABLE, Payer, TooExpensive, WalletMissing, wallet_of

KEY = "11" * 32
ADDRESS = Account.from_key(bytes.fromhex(KEY)).address
TOKEN = "0x" + "Aa" * 20


def offer(amount: str = "500", network: str = "eip155:31337", asset: str = TOKEN) -> Requirements:
    return Requirements(
        "exact", network, asset, amount, "0x" + "bb" * 20, 60, {"name": "USDC", "version": "2"}
    )


def asked(*offers: Requirements) -> Required:
    return Required("pay", Resource("http://x"), offers)


def payer(most: int = 500) -> Payer:
    return Payer(
        wallet_of(None, {"COMPUTEPOOL_WALLET_KEY": KEY}),
        most,
        frozenset({"eip155:31337"}),
        frozenset({TOKEN}),
    )


def test_the_first_offer_within_the_limits_is_taken() -> None:
    foreign = offer(network="eip155:1")
    assert payer().choose(asked(foreign, offer(asset=TOKEN.lower()))) == offer(asset=TOKEN.lower())


@pytest.mark.parametrize(
    "offers",
    [(offer("501"),), (offer(network="eip155:1"),), (offer(asset="0x" + "cc" * 20),), ()],
    ids=["amount", "network", "asset", "none"],
)
def test_what_the_owner_did_not_allow_is_not_signed(offers: tuple[Requirements, ...]) -> None:
    with pytest.raises(TooExpensive):
        payer().choose(asked(*offers))


def test_an_offer_of_no_evm_chain_is_not_signed() -> None:
    with pytest.raises(TooExpensive):
        Payer(payer().account, 500).sign(offer(network="solana:101"))


def test_no_two_vouchers_share_a_nonce_and_each_ends_with_its_offer() -> None:
    one, two = (payer().sign(offer(), now_unix_s=1000).payload.authorization for _ in range(2))
    assert one.nonce != two.nonce
    assert (one.source, one.value, one.valid_before) == (ADDRESS, "500", "1060")


def test_a_key_comes_from_the_environment_a_plain_file_or_a_keystore(tmp_path: Path) -> None:
    plain, store = tmp_path / "plain.key", tmp_path / "store.json"
    plain.write_text(f"0x{KEY}\n")
    store.write_text(json.dumps(Account.encrypt(bytes.fromhex(KEY), "secret", kdf="pbkdf2", iterations=10)))
    found = [
        wallet_of(None, {"COMPUTEPOOL_WALLET_KEY": KEY}),
        wallet_of(plain, {}),
        wallet_of(store, {PASSWORD_VARIABLE: "secret"}),
    ]
    assert {account.address for account in found} == {ADDRESS}
    with pytest.raises(WalletMissing):
        wallet_of(store, {PASSWORD_VARIABLE: "wrong"})
    with pytest.raises(WalletMissing):
        wallet_of(None, {})
    with pytest.raises(WalletMissing):
        wallet_of(tmp_path / "none", {})
