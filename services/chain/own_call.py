"""One call of a contract by somebody's own wallet, who pays its gas; knows no contract.

For people's commands: no nonce is kept, and nothing is repeated.
"""

from eth_account.signers.local import LocalAccount

from services.chain import transactions, wallets
from services.chain.networks import network_of
from services.chain.revert import named
from services.chain.rpc import CallReverted, Rpc


class CallFailed(Exception):
    """own_call_failed: not sent, or mined and failed; the message has the error or the transaction."""

    code = "own_call_failed"


async def call_by(rpc: Rpc, wallet: LocalAccount, to: str, data: bytes) -> str:
    """The transaction's hash, once it is mined. The local chain's wallets get coins for gas.

    Raises CallFailed, ReceiptOverdue, ChainAway.
    """
    network = network_of(await rpc.chain_id())
    await wallets.fund_local(rpc, wallet.address)
    if not await rpc.balance(wallet.address):
        raise CallFailed(f"{wallet.address} has no coins of {network.name} for gas")
    try:
        gas = await transactions.gas_for(rpc, network, wallet.address, to, data)
    except CallReverted as refused:
        raise CallFailed(named(refused.data)) from refused
    nonce, fees = await rpc.nonce(wallet.address), await transactions.fees(rpc, network)
    signed = transactions.sign(wallet, network, nonce=nonce, to=to, data=data, gas=gas, fees=fees)
    await rpc.send(signed.raw)
    receipt = await transactions.receipt_of(rpc, signed.hash, network.receipt_within_s)
    if not receipt.succeeded:
        raise CallFailed(signed.hash)
    return signed.hash
