"""What an operator's payout wallet signs for its coalition (EIP-712): its seat in an epoch, and its bond.

Knows no key. Source: ICoalition.sol's `openEpoch`, EIP-3009's ReceiveWithAuthorization.
"""

from typing import Any

from eth_utils.crypto import keccak

from services.chain import abi
from services.chain.coalitions import Seat
from services.typed_data import contract_domain, typed_data

FOR_GOOD_UNIX_S = 2**48
"""Its nonce ends an authorization, and only the coalition can use it: so it needs no other end."""


def seat_consent(*, chain_id: int, coalition: str, epoch: int, seat: Seat) -> dict[str, Any]:
    """Consent to this share in the contract's epoch number `epoch`, and in no other."""
    message = {
        "coalition": coalition,
        "epoch": epoch,
        "units": seat.units,
        "node": seat.node,
        "receiptKey": seat.receipt_key,
    }
    kinds = ("address", "uint256", "uint256", "bytes32", "address")
    domain = contract_domain("ComputePool Coalition", "1", chain_id, coalition)
    return typed_data(domain, "Accept", kinds, message)


def bond_nonce(coalition: str, operator: str, bonded_micro: int) -> str:
    """EIP-3009's nonce: one payment for each state of the bond, so that a repeated one pays once."""
    return (
        "0x" + keccak(abi.encode(("address", "address", "uint256"), coalition, operator, bonded_micro)).hex()
    )


def bond_authorization(
    *,
    chain_id: int,
    token: str,
    name: str,
    version: str,
    operator: str,
    coalition: str,
    micro: int,
    nonce: str,
) -> dict[str, Any]:
    """`name` and `version` are the token's own. Valid until it is used."""
    message = {
        "from": operator,
        "to": coalition,
        "value": micro,
        "validAfter": 0,
        "validBefore": FOR_GOOD_UNIX_S,
        "nonce": nonce,
    }
    kinds = ("address", "address", "uint256", "uint256", "uint256", "bytes32")
    domain = contract_domain(name, version, chain_id, token)
    return typed_data(domain, "ReceiveWithAuthorization", kinds, message)
