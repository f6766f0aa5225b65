"""Reads a chain's events in order, block range by block range, and notices when the chain takes blocks back.

Knows no contract. Who reads keeps the `Mark`s (the newest last): they say where to go on, and from which of
them a reorganisation started.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from services.chain.networks import Network
from services.chain.rpc import Log, NoSuchBlock, Rpc, RpcRefused

KEPT_MARKS = 128
"""Reorganisations that reach back further than all marks are reported back to the oldest one."""


@dataclass(frozen=True)
class Mark:
    """A block that was read to its end."""

    number: int
    hash: str


@dataclass(frozen=True)
class Batch:
    """All logs from the block after the last mark to `mark`, in the chain's order."""

    logs: tuple[Log, ...]
    mark: Mark


@dataclass(frozen=True)
class TakenBack:
    """Blocks after `to` are no longer on the chain, and what was read of them did not happen."""

    to: Mark


Step = Batch | TakenBack | None


async def read_on(
    rpc: Rpc,
    network: Network,
    marks: Sequence[Mark],
    addresses: Sequence[str],
    topics: Sequence[bytes | Sequence[bytes] | None] = (),
) -> Step:
    """The next batch that has its confirmations; None: nothing new. Raises ChainAway, RpcRefused.

    The batch is whole or not given: its last block, and the one that it follows, are looked at again after
    its logs were read. None then too: the next call says what was taken back.
    """
    newest = marks[-1]
    if not await is_canonical(rpc, newest.number, newest.hash):
        return TakenBack(await _common(rpc, marks))
    confirmed = await rpc.block_number() - network.confirmations + 1
    if confirmed <= newest.number:
        return None
    last = min(confirmed, newest.number + network.log_range)
    before = await rpc.block(last)
    logs = await between(rpc, network, newest.number + 1, last, addresses, topics)
    if (await rpc.block(last)).hash != before.hash:
        return None
    if any(log.block_number == last and log.block_hash != before.hash for log in logs):
        return None
    if not await is_canonical(rpc, newest.number, newest.hash):
        return None
    return Batch(tuple(logs), Mark(last, before.hash))


def after(marks: Sequence[Mark], step: Batch | TakenBack) -> tuple[Mark, ...]:
    """The marks to keep once a step has been dealt with."""
    if isinstance(step, Batch):
        return (*marks, step.mark)[-KEPT_MARKS:]
    return tuple(mark for mark in marks if mark.number <= step.to.number) or (step.to,)


async def between(
    rpc: Rpc,
    network: Network,
    first: int,
    last: int,
    addresses: Sequence[str] = (),
    topics: Sequence[bytes | Sequence[bytes] | None] = (),
) -> list[Log]:
    """Logs of blocks `first` to `last` inclusive, in ranges that the node takes: a refused one is halved."""
    found: list[Log] = []
    width = network.log_range
    while first <= last:
        end = min(last, first + width - 1)
        try:
            found += await rpc.logs(first, end, addresses, topics)
        except RpcRefused:
            if width == 1:
                raise
            width = max(1, width // 2)
            continue
        first = end + 1
    return found


async def mark_before(rpc: Rpc, block: int) -> Mark:
    """Where reading begins so that `block` is the first one read."""
    found = await rpc.block(max(0, block - 1))
    return Mark(found.number, found.hash)


async def is_canonical(rpc: Rpc, number: int, block_hash: str) -> bool:
    """Whether the block is (still) on the chain; an error does not say so. Raises ChainAway, RpcRefused."""
    try:
        return (await rpc.block(number)).hash == block_hash
    except NoSuchBlock:
        return False


async def _common(rpc: Rpc, marks: Sequence[Mark]) -> Mark:
    for mark in reversed(marks[:-1]):
        if await is_canonical(rpc, mark.number, mark.hash):
            return mark
    oldest = marks[0]
    return await mark_before(rpc, oldest.number)
