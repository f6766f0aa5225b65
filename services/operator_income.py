"""What an operator has earned on the chain, and how it gets it: claimed, and changed back into USDC.

The chain alone says what is owed; nothing is kept here, so an interrupted withdrawal is simply done again.
Knows nothing of the log, of sessions or of a database: an operator's machine has none.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from eth_account.signers.local import LocalAccount
from eth_utils.address import to_checksum_address

from events.shares import WEI_PER_MICRO
from services.chain import transactions, wallets
from services.chain.artifacts import artifact
from services.chain.contract import Contract
from services.chain.manifest import Manifest
from services.chain.networks import network_of
from services.chain.rpc import Rpc


class CoinsNeeded(Exception):
    """coins_needed: the payout wallet has no coins of the chain, and pays the gas of a withdrawal itself."""

    code = "coins_needed"
    remedy = "Send the wallet some coins of the chain, then: computepool operator withdraw"


class WithdrawalFailed(Exception):
    """withdrawal_failed: a transaction of the payout wallet was mined and failed; nothing was lost."""

    code = "withdrawal_failed"
    remedy = "computepool operator earnings shows what is left; withdraw again."


@dataclass(frozen=True)
class Income:
    """Of one epoch's gda_pool: `claimable_wei` at the next block's second, since a stream's meter runs."""

    pool_id: str
    coalition: str
    chain_epoch: int
    gda_pool: str
    units: int
    claimable_wei: int
    claimed_wei: int


@dataclass(frozen=True)
class Purse:
    """One payout wallet: what it has earned, and what it holds."""

    wallet: str
    incomes: tuple[Income, ...]
    usdcx_wei: int
    usdc_micro: int


async def purse_of(rpc: Rpc, manifest: Manifest, wallet: str, coalitions: Sequence[tuple[str, str]]) -> Purse:
    """`coalitions`: (pool id, address). Epochs in which the wallet never had a share are left out."""
    incomes = []
    for pool_id, address in coalitions:
        contract = Contract(artifact("Coalition"), address)
        for epoch in range(1, int(await contract.read(rpc, "epoch")) + 1):
            gda_pool = to_checksum_address(await contract.read(rpc, "gdaPoolOf", epoch))
            income = await _income(rpc, wallet, pool_id, address, epoch, gda_pool)
            if income.units or income.claimed_wei or income.claimable_wei:
                incomes.append(income)
    usdcx = await _usdcx(manifest).read(rpc, "balanceOf", wallet)
    usdc = await Contract(artifact("MockUSDC"), manifest.at("USDC")).read(rpc, "balanceOf", wallet)
    return Purse(wallet, tuple(incomes), int(usdcx), int(usdc))


async def _income(rpc: Rpc, wallet: str, pool_id: str, coalition: str, epoch: int, gda_pool: str) -> Income:
    """What was claimed is what was received less what is claimable, both as of one block."""
    contract, head = _gda_pool(gda_pool), await rpc.block_number()
    units = int(await contract.read(rpc, "getUnits", wallet))
    received = int(await contract.read(rpc, "getTotalAmountReceivedByMember", wallet, height=head))
    unclaimed, _ = await contract.read(rpc, "getClaimableNow", wallet, height=head)
    claimable, _ = await contract.read(rpc, "getClaimableNow", wallet, height="pending")
    return Income(pool_id, coalition, epoch, gda_pool, units, int(claimable), received - int(unclaimed))


async def withdraw(
    rpc: Rpc, manifest: Manifest, payout: LocalAccount, coalitions: Sequence[tuple[str, str]]
) -> tuple[str, ...]:
    """Claims from every epoch, then turns all whole micro-USDC of USDCx into USDC; the transactions' hashes.

    Raises CoinsNeeded, WithdrawalFailed, ReceiptOverdue, ChainAway.
    """
    await wallets.fund_local(rpc, payout.address)
    done = []
    before = await purse_of(rpc, manifest, payout.address, coalitions)
    for income in before.incomes:
        if income.claimable_wei:
            gda_pool = _gda_pool(income.gda_pool)
            done.append(
                await _sent(rpc, payout, gda_pool.address, gda_pool.calldata("claimAll", payout.address))
            )
    usdcx = _usdcx(manifest)
    whole = int(await usdcx.read(rpc, "balanceOf", payout.address)) // WEI_PER_MICRO * WEI_PER_MICRO
    if whole:
        done.append(await _sent(rpc, payout, usdcx.address, usdcx.calldata("downgrade", whole)))
    return tuple(done)


async def _sent(rpc: Rpc, payout: LocalAccount, to: str, data: bytes) -> str:
    network = network_of(await rpc.chain_id())
    if not await rpc.balance(payout.address):
        raise CoinsNeeded(f"{payout.address} on {network.name}")
    signed = transactions.sign(
        payout,
        network,
        nonce=await rpc.nonce(payout.address),
        to=to,
        data=data,
        gas=await transactions.gas_for(rpc, network, payout.address, to, data),
        fees=await transactions.fees(rpc, network),
    )
    await rpc.send(signed.raw)
    receipt = await transactions.receipt_of(rpc, signed.hash, network.receipt_within_s)
    if not receipt.succeeded:
        raise WithdrawalFailed(signed.hash)
    return signed.hash


def _gda_pool(address: str) -> Contract:
    return Contract(artifact("SuperfluidPool", "superfluid"), address)


def _usdcx(manifest: Manifest) -> Contract:
    return Contract(artifact("SuperToken", "superfluid"), to_checksum_address(manifest.at("USDCx")))
