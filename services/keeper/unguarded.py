"""Facts of the chain that stand in the log while no reader has read their blocks to the end.

A reader learns that blocks were taken back by the ones that it has read. A fact may be told before that: by
others, or by a reader whose next question was not answered. Until a mark stands behind it, it is looked at by
itself. Knows no aggregate.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog

from events.chain import ChainRef
from services.chain.logs import Mark
from services.chain.rpc import NoSuchBlock, Rpc
from services.keeper.entries import Reading

Revert = Callable[[str, ChainRef], Awaitable[None]]
"""Tells the log that this fact of this aggregate did not happen."""
LAG_S = 15.0
"""So long a node of the chain may not have a block yet that another one had already."""

log = structlog.get_logger("keeper")


@dataclass
class _Fact:
    aggregate_id: str
    at: ChainRef
    missing_since_s: float | None = None


@dataclass
class Unguarded:
    """By the fact's key. `kind`: of the aggregates; `clock`: seconds, from anywhere on."""

    kind: str = ""
    clock: Callable[[], float] = time.monotonic
    _facts: dict[str, _Fact] = field(default_factory=dict)

    def add(self, aggregate_id: str, at: ChainRef) -> None:
        self._facts[at.key] = _Fact(aggregate_id, at)

    def forget(self, at: ChainRef) -> None:
        self._facts.pop(at.key, None)

    def clear(self) -> None:
        self._facts.clear()

    async def take_back(self, reading: Reading, mark: Mark, revert: Revert, only: str | None = None) -> None:
        """Tell the log of each that is `gone`. Raises what `gone` and `revert` raise."""
        for aggregate_id, at in await self.gone(reading.rpc, reading.network.chain_id, mark, only):
            log.warning("fact_taken_back", kind=self.kind, id=aggregate_id, block=at.block_number)
            await revert(aggregate_id, at)
            self.forget(at)

    async def gone(
        self, rpc: Rpc, chain_id: int, mark: Mark, only: str | None = None
    ) -> list[tuple[str, ChainRef]]:
        """Those of this chain (and of one aggregate) whose block is not on it, newest first; `forget` each
        once told.

        `mark` stood a moment ago, and guards what it covers. Raises ChainAway, RpcRefused.
        """
        of_chain = [one for one in self._facts.values() if one.at.chain_id == chain_id]
        facts = [one for one in of_chain if only in (None, one.aggregate_id)]
        heights = {one.at.block_number for one in facts}
        there = {height: await _hash_at(rpc, height) for height in heights}
        gone = []
        for one in facts:
            if self._is_gone(one, there[one.at.block_number]):
                gone.append((one.aggregate_id, one.at))
            elif one.missing_since_s is None and one.at.block_number <= mark.number:
                self.forget(one.at)
        return sorted(gone, key=lambda fact: fact[1].order, reverse=True)

    def _is_gone(self, fact: _Fact, block_hash: str | None) -> bool:
        if block_hash is not None:
            fact.missing_since_s = None
            return block_hash != fact.at.block_hash
        now = self.clock()
        if fact.missing_since_s is None:
            fact.missing_since_s = now
        return now - fact.missing_since_s >= LAG_S


async def _hash_at(rpc: Rpc, height: int) -> str | None:
    try:
        return (await rpc.block(height)).hash
    except NoSuchBlock:
        return None
