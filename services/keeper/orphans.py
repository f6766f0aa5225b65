"""Escrows that stand on the chain and that the log has never heard of: closed, if they are ours to close.

Such an escrow is what a lost or restored log leaves behind: nothing would ever stop its stream.
"""

import structlog

from events.workflow import Requested
from services.chain import abi
from services.chain.contract import NotAnswered
from services.chain.rpc import CallReverted
from services.keeper.entries import escrow_at
from services.keeper.executor import OPEN, Executor

STEP = "orphan"
DEPLOYED = abi.topic("SessionDeployed(address,bytes32,address)")

log = structlog.get_logger("keeper")


async def close_orphans(executor: Executor) -> int:
    """Once, when the log and the chain have been read. How many were closed.

    Raises what the sender and the RPC raise; repeating it closes nothing twice.
    """
    reading, sender = executor.reader.reading, executor.sender
    first, last = reading.manifest.from_block, executor.reader.progress.upto
    closed = 0
    for entry in await reading.between(first, last, [executor.factory.address], [DEPLOYED]):
        address = "0x" + entry.topics[1][-20:].hex()
        if address in executor.following.escrows:
            continue
        escrow = escrow_at(address)
        try:
            terms = await escrow.read(sender.rpc, "terms")
            ours = str(terms[9]).lower() == sender.key.address.lower()
            if not ours or int(await escrow.read(sender.rpc, "state")) != OPEN:
                continue
            log.warning("orphan", escrow=address, block=entry.block_number)
            attempt = executor.following.attempt(address, STEP)
            input = {
                "network": str(reading.network.chain_id),
                "session_id": terms[10].hex(),
                "escrow": address,
            }
            ended = await executor.runs.run(
                Requested("stream-stop", "escrow", address, STEP, attempt, {**input, "mode": "close"})
            )
        except (CallReverted, NotAnswered) as refused:
            log.warning("orphan_left", escrow=address, why=str(refused))
            continue
        closed += ended.confirmed
    return closed
