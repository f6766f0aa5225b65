"""USDC of the local chain, which is worth nothing: minted to whoever asks. Knows no other chain."""

from services.chain import anvil
from services.chain.artifacts import artifact
from services.chain.contract import Contract
from services.chain.manifest import Manifest
from services.chain.rpc import Rpc
from services.chain.transactions import receipt_of

WITHIN_S = 30.0


class NoPlayMoney(Exception):
    """no_play_money: only the local chain, with its own MockUSDC, gives money away."""

    code = "no_play_money"
    remedy = "On another chain, send the wallet USDC of that chain."


async def mint(rpc: Rpc, manifest: Manifest, account: str, micro: int) -> int:
    """So many micro-USDC more; returns what the account holds. Raises NoPlayMoney, ReceiptOverdue."""
    owner = anvil.dev_account().address
    if await rpc.chain_id() != anvil.CHAIN_ID or manifest.owner.lower() != owner.lower():
        raise NoPlayMoney(f"the chain is {await rpc.chain_id()}, deployed by {manifest.owner}")
    usdc = Contract(artifact("MockUSDC"), manifest.at("USDC"))
    asked = {"from": owner, "to": usdc.address, "data": "0x" + usdc.calldata("mint", account, micro).hex()}
    made = await receipt_of(rpc, await rpc.ask("eth_sendTransaction", asked), WITHIN_S)
    if not made.succeeded:
        raise NoPlayMoney(f"minting was refused: {made.transaction}")
    return int(await usdc.read(rpc, "balanceOf", account))
