"""Signing a transaction for one chain, and waiting for what became of it. Keeps no nonce: callers do."""

import asyncio
import time
from dataclasses import dataclass

from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_utils.address import to_checksum_address

from services.chain.networks import Network
from services.chain.rpc import Receipt, Rpc

GAS_MARGIN = 1.2
"""An estimate is of the chain as it is now; a block later the same call may need a little more."""
SWALLOWED_GAS = 1_000_000
"""An estimate is the least gas with which a call does not fail. A contract that goes on when an inner call
fails (a refund, a short request's minimum) does so with too little gas as well, so this comes on top.
"""


class GasAboveCap(Exception):
    """gas_above_cap: the transaction would need more gas than one transaction of this chain may ask for."""

    code = "gas_above_cap"


class ReceiptOverdue(Exception):
    """receipt_overdue: a transaction was sent and is in no block after the time given; it may still come."""

    code = "receipt_overdue"
    remedy = "Run the same command again (with --resume); it waits for what is under way."


@dataclass(frozen=True)
class Fees:
    """EIP-1559: at most `most_wei` per gas, of which `tip_wei` goes to the block's maker."""

    most_wei: int
    tip_wei: int


@dataclass(frozen=True)
class Signed:
    """`raw` may be sent any number of times: it has one hash and one nonce."""

    raw: bytes
    hash: str
    nonce: int


async def fees(rpc: Rpc, network: Network, least_tip_wei: int = 0) -> Fees:
    """Enough for twice the present base fee, with at least the chain's least tip and the caller's."""
    tip = max(network.tip_floor_wei, least_tip_wei, await rpc.tip_wei())
    return Fees(2 * (await rpc.block()).base_fee_wei + tip, tip)


async def gas_for(
    rpc: Rpc,
    network: Network,
    sender: str,
    to: str,
    data: bytes,
    value_wei: int = 0,
    margin: float = GAS_MARGIN,
) -> int:
    """The estimate and a margin. Raises GasAboveCap; CallReverted when it would fail now."""
    estimate = await rpc.estimate(sender, to, data, value_wei)
    if estimate > network.gas_cap:
        raise GasAboveCap(f"{estimate} gas; {network.name} takes {network.gas_cap}")
    return min(int(estimate * margin) + SWALLOWED_GAS, network.gas_cap)


def sign(
    key: LocalAccount,
    network: Network,
    *,
    nonce: int,
    to: str,
    data: bytes,
    gas: int,
    fees: Fees,
    value_wei: int = 0,
) -> Signed:
    """Deterministic (RFC 6979): the same intent, nonce and fees are the same bytes."""
    signed = key.sign_transaction(
        {
            "type": 2,
            "chainId": network.chain_id,
            "nonce": nonce,
            "to": to_checksum_address(to),
            "value": value_wei,
            "data": data,
            "gas": gas,
            "maxFeePerGas": fees.most_wei,
            "maxPriorityFeePerGas": fees.tip_wei,
        }
    )
    return Signed(bytes(signed.raw_transaction), "0x" + bytes(signed.hash).hex(), nonce)


async def receipt_of(rpc: Rpc, transaction: str, within_s: float, poll_s: float = 0.02) -> Receipt:
    """As soon as a block has it. Raises ReceiptOverdue."""
    deadline = time.monotonic() + within_s
    while True:
        found = await rpc.receipt(transaction)
        if found is not None:
            return found
        if time.monotonic() > deadline:
            raise ReceiptOverdue(f"{transaction} is in no block after {within_s:.0f} s")
        await asyncio.sleep(poll_s)
        poll_s = min(poll_s * 1.5, 1.0)


def account(secret: str) -> LocalAccount:
    """From a private key in hex. Raises ValueError."""
    made: LocalAccount = Account.from_key(secret)
    return made
