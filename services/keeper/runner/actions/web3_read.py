"""Actions that only look: read-contract, query-events, get-transaction, check-balance. Knows no workflow."""

from decimal import Decimal
from typing import Any

from services.chain import logs, revert
from services.chain.rpc import CallReverted, RpcRefused
from services.keeper.runner.abi_values import ArgumentsInvalid, Function, address, event_of, function_of
from services.keeper.runner.actions.chain_access import Chain, chain_of, patiently
from services.keeper.runner.actions.step import Means, Result, Step, failure

ETHER = Decimal(10**18)
MOST_EVENTS = 10_000


async def read_contract(step: Step, means: Means) -> Result:
    """`{success, result}`."""
    chain = chain_of(step, means)
    if chain is None:
        return no_chain(step)
    try:
        function = function_of(step.said("abi"), step.said("abiFunction"))
        to = address(step.config.get("contractAddress"))
        return {"success": True, "result": await asked(chain, to, function, step.said("functionArgs"))}
    except CallReverted as refused:
        return failure(revert.named(refused.data), errorClass="contract_revert")
    except (ArgumentsInvalid, RpcRefused) as wrong:
        return failure(str(wrong))


async def asked(chain: Chain, to: str, function: Function, arguments: str) -> Any:
    """What a view says. Raises ArgumentsInvalid (nothing stands there, too), CallReverted, RpcRefused."""
    data = function.calldata(arguments)
    answer = await patiently(lambda: chain.rpc.call(to, data))
    if not answer and function.outputs:
        raise ArgumentsInvalid(f"no contract answers {function.signature} at {to}")
    return function.result(answer)


async def query_events(step: Step, means: Means) -> Result:
    """`{success, events: [{blockNumber, transactionHash, logIndex, args}], eventCount, fromBlock,
    toBlock}`.
    """
    chain = chain_of(step, means)
    if chain is None:
        return no_chain(step)
    try:
        event = event_of(step.said("abi"), step.said("eventName"))
        at, topics = address(step.config.get("contractAddress")), event.topics(step.said("eventArgs"))
        first, last = await _blocks(step, chain)
        found = await patiently(lambda: logs.between(chain.rpc, chain.network, first, last, [at], topics))
        if len(found) > MOST_EVENTS:
            return failure(f"more than {MOST_EVENTS} events; ask about fewer blocks")
        events = [
            {
                "blockNumber": log.block_number,
                "transactionHash": log.transaction,
                "logIndex": log.index,
                "args": event.args(log),
            }
            for log in found
        ]
    except (ArgumentsInvalid, RpcRefused) as wrong:
        return failure(str(wrong))
    return {"success": True, "events": events, "eventCount": len(events), "fromBlock": first, "toBlock": last}


async def get_transaction(step: Step, means: Means) -> Result:
    """`{success, hash, from, to, value, input, nonce, blockNumber, blockHash}`; no logs."""
    chain = chain_of(step, means)
    if chain is None:
        return no_chain(step)
    wanted = step.said("transactionHash")
    try:
        found = await patiently(lambda: chain.rpc.ask("eth_getTransactionByHash", wanted))
    except RpcRefused as wrong:
        return failure(str(wrong))
    if found is None:
        return failure(f"no transaction {wanted}")
    mined = found.get("blockNumber")
    return {
        "success": True,
        "hash": found["hash"],
        "from": address(found["from"]),
        "to": address(found["to"]) if found.get("to") else None,
        "value": str(int(found["value"], 16)),
        "input": found["input"],
        "nonce": int(found["nonce"], 16),
        "blockNumber": int(mined, 16) if mined else None,
        "blockHash": found.get("blockHash"),
    }


async def check_balance(step: Step, means: Means) -> Result:
    """`{success, balance, balanceWei}`: in whole coins, and in wei."""
    chain = chain_of(step, means)
    if chain is None:
        return no_chain(step)
    try:
        of = address(step.config.get("address"))
        wei = await patiently(lambda: chain.rpc.balance(of))
    except (ArgumentsInvalid, RpcRefused) as wrong:
        return failure(str(wrong))
    return {"success": True, "address": of, "balance": f"{wei / ETHER:f}", "balanceWei": str(wei)}


async def _blocks(step: Step, chain: Chain) -> tuple[int, int]:
    """`fromBlock` to `toBlock`, or the last `blockCount` up to `toBlock`, or as many as one may ask."""
    said = step.said("toBlock")
    newest = await patiently(chain.rpc.block_number)
    last = newest if said in ("", "latest") else _block(said)
    if step.said("fromBlock"):
        return _block(step.said("fromBlock")), last
    count = _block(step.said("blockCount") or str(chain.network.log_range))
    return max(0, last - count + 1), last


def _block(said: str) -> int:
    if not said.isdecimal() or len(said) > 18:
        raise ArgumentsInvalid(f"not a block: {said}")
    return int(said)


def no_chain(step: Step) -> Result:
    return failure(f"this runner does not know network {step.said('network') or 'of no name'}")
