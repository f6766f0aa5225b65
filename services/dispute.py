"""The accused's answer to a claim: its payout key disputes it on the chain, before the claim can be executed.

Knows no gateway. Source: ICoalition.sol's `dispute`.
"""

from eth_account.signers.local import LocalAccount
from eth_utils.address import to_checksum_address

from services.chain import transactions, wallets
from services.chain.artifacts import artifact
from services.chain.contract import Contract
from services.chain.networks import network_of
from services.chain.revert import named
from services.chain.rpc import CallReverted, Rpc


class DisputeFailed(Exception):
    """dispute_failed: the chain did not take the dispute; the message has the reason or the transaction."""

    code = "dispute_failed"
    remedy = "computepool slash show has the claim's state, and until when it may be disputed."


async def dispute(rpc: Rpc, payout: LocalAccount, coalition: str, claim_id: int) -> str:
    """The transaction's hash, once it is mined. A counter-bond of the operator's free bond is locked by it.

    Raises DisputeFailed, also with the contract's error (NotAccused, TooLate, BondTooSmall, ClaimNotIn),
    ReceiptOverdue, ChainAway.
    """
    network = network_of(await rpc.chain_id())
    await wallets.fund_local(rpc, payout.address)
    contract = Contract(artifact("Coalition"), to_checksum_address(coalition))
    data = contract.calldata("dispute", claim_id)
    if not await rpc.balance(payout.address):
        raise DisputeFailed(f"{payout.address} has no coins of {network.name} for gas")
    try:
        gas = await transactions.gas_for(rpc, network, payout.address, contract.address, data)
    except CallReverted as refused:
        raise DisputeFailed(named(refused.data)) from refused
    signed = transactions.sign(
        payout,
        network,
        nonce=await rpc.nonce(payout.address),
        to=contract.address,
        data=data,
        gas=gas,
        fees=await transactions.fees(rpc, network),
    )
    await rpc.send(signed.raw)
    receipt = await transactions.receipt_of(rpc, signed.hash, network.receipt_within_s)
    if not receipt.succeeded:
        raise DisputeFailed(signed.hash)
    return signed.hash
