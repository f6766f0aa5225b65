"""Actions that send a transaction: web3/write-contract and web3/transfer-funds.

The step is the sender's intent: it is signed once, and while its fate is open it is waited for and sent
again as it is. Nothing is tried again by itself: a refusal, or a revert that was mined, is the step's
failure, which names the contract's error. A chain that is away is waited for. Knows no workflow.
"""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

import structlog

from services.chain import revert
from services.chain.networks import GWEI
from services.chain.rpc import CallReverted, ChainAway, Receipt, RpcRefused
from services.chain.sender import Entry, Sender, SendRefused
from services.chain.transactions import GAS_MARGIN, GasAboveCap, ReceiptOverdue
from services.keeper.runner.abi_values import ArgumentsInvalid, address, function_of
from services.keeper.runner.actions.chain_access import chain_of, patiently
from services.keeper.runner.actions.step import Means, Result, Step, failure

DECIMAL = re.compile(r"\d{1,60}(\.\d{1,30})?", re.ASCII)
PAUSE_S = 1.0
ETHER = 10**18
log = structlog.get_logger("runner")


@dataclass(frozen=True)
class Wanted:
    """`tip_wei` is a floor, like the network's own."""

    to: str
    data: bytes
    value_wei: int = 0
    tip_wei: int = 0
    gas_margin: float = GAS_MARGIN


async def write_contract(step: Step, means: Means) -> Result:
    """`{success, transactionHash, chainId, gasUsed, ...}`; with `failOnError` false a failure is soft."""
    done = await sent(step, means, _call)
    if done["success"] or step.on("failOnError", True):
        return done
    return {"success": True, "error": done["error"], "rejection": done.get("rejection")}


async def transfer_funds(step: Step, means: Means) -> Result:
    """`amount` in whole coins, such as "0.5", to `recipientAddress`."""
    return await sent(step, means, _gift)


def wanted(step: Step, to: str, data: bytes, value_wei: int = 0) -> Wanted:
    """With what the node says about gas. Raises ArgumentsInvalid."""
    margin = _decimal(step, "gasLimitMultiplier", str(GAS_MARGIN))
    if not 1 <= margin <= 10:
        raise ArgumentsInvalid("gasLimitMultiplier is a number from 1 to 10")
    return Wanted(to, data, value_wei, int(_decimal(step, "priorityFeeGwei", "0") * GWEI), float(margin))


def _call(step: Step) -> Wanted:
    chosen = step.said("abiFunction")
    if not chosen:
        raise ArgumentsInvalid("abiFunction is not set")
    data = function_of(step.said("abi"), chosen).calldata(step.said("functionArgs"))
    value = _coins(step, "ethValue") if step.said("ethValue") else 0
    return wanted(step, address(step.config.get("contractAddress")), data, value)


def _gift(step: Step) -> Wanted:
    return wanted(step, address(step.config.get("recipientAddress")), b"", _coins(step, "amount"))


async def sent(step: Step, means: Means, wanted_by: Callable[[Step], Wanted]) -> Result:
    """The step's one transaction and what came of it, however often the step is run."""
    chain = chain_of(step, means)
    sender = means.sender
    if chain is None or sender is None:
        return failure(f"this runner sends nothing on network {step.said('network') or 'of no name'}")
    again = step.again
    while True:
        entry = await patiently(lambda: sender.known(step.key)) if again else None
        again = True
        if entry is None:
            try:
                what = wanted_by(step)
            except Exception as wrong:  # whatever a configuration can hold: nothing was asked of the chain
                return failure(str(wrong) or type(wrong).__name__, errorClass="not_sent")
            try:
                entry = await sender.submit(
                    step.key,
                    what.to,
                    what.data,
                    value_wei=what.value_wei,
                    tip_wei=what.tip_wei,
                    gas_margin=what.gas_margin,
                )
            except CallReverted as refused:
                return _reverted(revert.named(refused.data), chain.network.chain_id, None)
            except (GasAboveCap, SendRefused, RpcRefused) as refused:
                return failure(str(refused), errorClass="not_sent")
            except ChainAway as away:
                log.warning("chain_away", step=step.key, why=str(away))
                await asyncio.sleep(PAUSE_S)
                continue
        try:
            receipt = await sender.outcome(step.key)
        except (ReceiptOverdue, ChainAway, RpcRefused) as waiting:
            log.warning("outcome_open", step=step.key, transaction=entry.hash, why=str(waiting))
            await asyncio.sleep(PAUSE_S)
            continue
        if receipt.succeeded:
            return _mined(receipt, chain.network.chain_id)
        return _reverted(await _why(sender, entry, receipt), chain.network.chain_id, receipt)


def _mined(receipt: Receipt, chain_id: int) -> Result:
    return {
        "success": True,
        "transactionHash": receipt.transaction,
        "chainId": chain_id,
        "transactionLink": "",
        "gasUsed": str(receipt.fee_wei),
        "gasUsedUnits": str(receipt.gas_used),
        "effectiveGasPrice": str(receipt.fee_wei // max(1, receipt.gas_used)),
    }


def _reverted(named: str, chain_id: int, receipt: Receipt | None) -> Result:
    sent = {} if receipt is None else {"transactionHash": receipt.transaction, "chainId": chain_id}
    return failure(named, rejection={"reason": named}, errorClass="contract_revert", **sent)


async def _why(sender: Sender, entry: Entry, receipt: Receipt) -> str:
    """A receipt doesn't say it, so the call is asked again: as of the block before, then of its own."""
    for height in (receipt.block_number - 1, receipt.block_number):
        try:
            await sender.rpc.call(entry.to, entry.data, height, entry.sender)
        except CallReverted as refused:
            return revert.named(refused.data)
        except (ChainAway, RpcRefused):
            break
    return "a revert without a reason"


def _coins(step: Step, name: str) -> int:
    wei = _decimal(step, name, "") * ETHER
    if wei != wei.to_integral_value():
        raise ArgumentsInvalid(f"{name} is finer than a wei")
    return int(wei)


def _decimal(step: Step, name: str, otherwise: str) -> Decimal:
    said = step.said(name) or otherwise
    try:
        if not DECIMAL.fullmatch(said):
            raise InvalidOperation
        return Decimal(said)
    except InvalidOperation:
        raise ArgumentsInvalid(f"{name} is not a plain number: {said}") from None
