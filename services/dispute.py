"""The accused's answer to a claim: its payout key disputes it on the chain, before the claim can be executed.

Knows no gateway. Source: ICoalition.sol's `dispute`.
"""

from eth_account.signers.local import LocalAccount
from eth_utils.address import to_checksum_address

from services.chain.artifacts import artifact
from services.chain.contract import Contract
from services.chain.own_call import CallFailed, call_by
from services.chain.rpc import Rpc


class DisputeFailed(Exception):
    """dispute_failed: the chain did not take the dispute; the message has the reason or the transaction."""

    code = "dispute_failed"
    remedy = "computepool slash show has the claim's state, and until when it may be disputed."


async def dispute(rpc: Rpc, payout: LocalAccount, coalition: str, claim_id: int) -> str:
    """The transaction's hash, once it is mined. A counter-bond of the operator's free bond is locked by it.

    Raises DisputeFailed, also with the contract's error (NotAccused, TooLate, BondTooSmall, ClaimNotIn),
    ReceiptOverdue, ChainAway.
    """
    contract = Contract(artifact("Coalition"), to_checksum_address(coalition))
    try:
        return await call_by(rpc, payout, contract.address, contract.calldata("dispute", claim_id))
    except CallFailed as failed:
        raise DisputeFailed(str(failed)) from failed
