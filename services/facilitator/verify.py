"""Whether an EIP-3009 payment holds: of what is asked, signed, in time, unused and covered. Sends nothing.

Knows nothing of sessions. Reasons are x402's own words, so that its clients understand them.
"""

import time
from dataclasses import dataclass
from typing import Any

from eth_abi.exceptions import DecodingError
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from services.chain import abi
from services.chain.revert import named
from services.chain.rpc import CallReverted, Rpc
from services.facilitator.shapes import Authorization, Payment, Requirements
from services.typed_data import contract_domain, recovered_signer, typed_data

SETTLING_S = 6
"""A payment must be valid for so much longer, so that it is still valid in the block that settles it."""
UINT256 = 1 << 256
TRANSFER = "transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,bytes)"
DOMAIN = "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"


class PaymentInvalid(Exception):
    """payment_invalid: an x402 payment does not hold; `reason` is x402's word for why. Nothing was moved."""

    code = "payment_invalid"
    remedy = "Sign a new payment for the terms of the last 402."

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Token:
    """The one asset that is taken, with its EIP-712 domain."""

    chain_id: int
    address: str
    name: str
    version: str

    @property
    def network(self) -> str:
        """CAIP-2."""
        return f"eip155:{self.chain_id}"

    @property
    def domain_separator(self) -> bytes:
        words = ("bytes32", "bytes32", "bytes32", "uint256", "address")
        hashes = (keccak(text=text) for text in (DOMAIN, self.name, self.version))
        return keccak(abi.encode(words, *hashes, self.chain_id, self.address))


async def token_at(rpc: Rpc, chain_id: int, address: str) -> Token:
    """What the contract says of itself. Raises ChainAway; PaymentInvalid when its EIP-712 domain is not of
    its name and version."""
    name = await _text(rpc, address, "name()")
    version = await _text(rpc, address, "version()")
    token = Token(chain_id, to_checksum_address(address), name, version)
    if await rpc.call(address, abi.call("DOMAIN_SEPARATOR()")) != token.domain_separator:
        raise PaymentInvalid("missing_eip712_domain", f"{address} signs by another domain than its name's")
    return token


async def verify(rpc: Rpc, token: Token, payment: Payment, asked: Requirements) -> str:
    """Who pays. Raises PaymentInvalid, ChainAway."""
    check_terms(token, payment, asked)
    given = payment.payload.authorization
    payer = check_signature(token, payment)
    await _check_time(rpc, given)
    if await is_used(rpc, token, payer, given.nonce):
        raise PaymentInvalid(
            "invalid_exact_evm_nonce_already_used", "this authorisation was used or cancelled"
        )
    held = abi.decode(("uint256",), await rpc.call(token.address, abi.call("balanceOf(address)", payer)))[0]
    if held < int(given.value):
        raise PaymentInvalid(
            "invalid_exact_evm_insufficient_balance", f"{payer} holds {held} of {given.value}"
        )
    try:
        await rpc.call(token.address, transfer(payment))
    except CallReverted as refused:
        raise PaymentInvalid(
            "invalid_exact_evm_transaction_simulation_failed", named(refused.data)
        ) from refused
    return payer


def check_terms(token: Token, payment: Payment, asked: Requirements) -> None:
    """Raises PaymentInvalid."""
    given, accepted = payment.payload.authorization, payment.accepted
    if payment.x402_version != 2:
        raise PaymentInvalid("invalid_x402_version", f"version {payment.x402_version}; version 2 is served")
    for scheme in (accepted.scheme, asked.scheme):
        if scheme != "exact":
            raise PaymentInvalid("unsupported_scheme", f"{scheme!r}; `exact` is served")
    for network in (accepted.network, asked.network):
        if network != token.network:
            raise PaymentInvalid("network_mismatch", f"{network!r}; {token.network} is served")
    for asset in (accepted.asset, asked.asset):
        if not same(asset, token.address):
            raise PaymentInvalid("invalid_exact_evm_asset_mismatch", f"{asset!r}; {token.address} is taken")
    if not (same(given.to, asked.pay_to) and same(accepted.pay_to, asked.pay_to)):
        raise PaymentInvalid("invalid_exact_evm_payload_recipient_mismatch", f"asked: to {asked.pay_to}")
    if not given.value == accepted.amount == asked.amount:
        raise PaymentInvalid(
            "invalid_exact_evm_payload_authorization_value_mismatch",
            f"{given.value} authorised; {asked.amount} asked",
        )
    if max(int(given.value), int(given.valid_after), int(given.valid_before)) >= UINT256:
        raise PaymentInvalid("invalid_payload", "a number does not fit into 256 bits")


def check_signature(token: Token, payment: Payment) -> str:
    """The checksummed account that signed, which is the one that pays. Raises PaymentInvalid."""
    given = payment.payload.authorization
    signer = recovered_signer(typed(token, given), payment.payload.signature.removeprefix("0x"))
    if signer is None or not same(signer, given.source):
        raise PaymentInvalid("invalid_exact_evm_payload_signature", f"not a signature of {given.source}")
    return signer


def typed(token: Token, given: Authorization) -> dict[str, Any]:
    """EIP-712 typed data of an authorisation."""
    message = {
        "from": given.source,
        "to": given.to,
        "value": int(given.value),
        "validAfter": int(given.valid_after),
        "validBefore": int(given.valid_before),
        "nonce": bytes.fromhex(given.nonce[2:]),
    }
    kinds = ("address", "address", "uint256", "uint256", "uint256", "bytes32")
    domain = contract_domain(token.name, token.version, token.chain_id, token.address)
    return typed_data(domain, "TransferWithAuthorization", kinds, message)


def transfer(payment: Payment) -> bytes:
    """The calldata that moves the money."""
    given = payment.payload.authorization
    return abi.call(
        TRANSFER,
        given.source,
        given.to,
        int(given.value),
        int(given.valid_after),
        int(given.valid_before),
        bytes.fromhex(given.nonce[2:]),
        bytes.fromhex(payment.payload.signature[2:]),
    )


async def is_used(rpc: Rpc, token: Token, payer: str, nonce: str) -> bool:
    """Whether the chain knows this authorisation as used or cancelled. Raises ChainAway."""
    asked = abi.call("authorizationState(address,bytes32)", payer, bytes.fromhex(nonce[2:]))
    return bool(abi.decode(("bool",), await rpc.call(token.address, asked))[0])


def same(one: str, other: str) -> bool:
    """Addresses are compared without regard to the checksum."""
    return one.lower() == other.lower()


async def _check_time(rpc: Rpc, given: Authorization) -> None:
    """By the later of the chain's clock and ours: a quiet chain's newest block is old."""
    now = max((await rpc.block()).timestamp, int(time.time()))
    if int(given.valid_before) < now + SETTLING_S:
        raise PaymentInvalid(
            "invalid_exact_evm_payload_authorization_valid_before",
            f"valid before {given.valid_before}; it is {now}, and settling takes {SETTLING_S} s",
        )
    if int(given.valid_after) > now:
        raise PaymentInvalid(
            "invalid_exact_evm_payload_authorization_valid_after",
            f"valid after {given.valid_after}; it is {now}",
        )


async def _text(rpc: Rpc, address: str, signature: str) -> str:
    try:
        return str(abi.decode(("string",), await rpc.call(address, abi.call(signature)))[0])
    except (CallReverted, DecodingError) as other:
        raise PaymentInvalid(
            "invalid_exact_evm_failed_to_get_asset_info", f"{address}: {signature}"
        ) from other
