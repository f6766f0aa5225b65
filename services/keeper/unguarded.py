"""Facts of the chain that stand in the log while no reader has read their blocks to the end.

A reader learns that blocks were taken back by the ones that it has read. A fact may be told before that: by
others, or by a reader whose next question was not answered. Until a mark stands behind it, it is looked at by
itself. Knows no aggregate.
"""

from dataclasses import dataclass, field

from events.chain import ChainRef
from services.chain import logs
from services.chain.rpc import Rpc


@dataclass
class Unguarded:
    """By the fact's key: the aggregate whose log it stands in, and where it was seen."""

    _facts: dict[str, tuple[str, ChainRef]] = field(default_factory=dict)

    def add(self, aggregate_id: str, at: ChainRef) -> None:
        self._facts[at.key] = (aggregate_id, at)

    def forget(self, at: ChainRef) -> None:
        self._facts.pop(at.key, None)

    def clear(self) -> None:
        self._facts.clear()

    async def gone(self, rpc: Rpc, mark: logs.Mark, only: str | None = None) -> list[tuple[str, ChainRef]]:
        """Those (of one aggregate) whose block is not on the chain, newest first; `forget` each once told.

        `mark` stood a moment ago, and guards what it covers. Raises ChainAway, RpcRefused.
        """
        facts = [one for one in self._facts.values() if only in (None, one[0])]
        blocks = {(at.block_number, at.block_hash) for _, at in facts}
        stands = {block: await logs.is_canonical(rpc, *block) for block in blocks}
        for _, at in facts:
            if stands[at.block_number, at.block_hash] and at.block_number <= mark.number:
                self.forget(at)
        gone = [one for one in facts if not stands[one[1].block_number, one[1].block_hash]]
        return sorted(gone, key=lambda one: one[1].order, reverse=True)
