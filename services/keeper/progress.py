"""How far a reader has come on the chain, for those who wait until it knows what a block of theirs holds."""

import asyncio
import contextlib
from dataclasses import dataclass, field

from services.chain.rpc import Rpc

LOOK_EVERY_S = 1.0


@dataclass
class Progress:
    """`upto`: the block up to which everything is known; -1 while nothing is."""

    rpc: Rpc
    upto: int = -1
    _moved: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def reached(self, block: int) -> None:
        """-1: blocks were taken back, and everything is read again."""
        async with self._moved:
            self.upto = block
            self._moved.notify_all()

    async def passed(self, block: int) -> None:
        """Until everything of that block (and before it) is known, or the chain has no such block any more.

        Where nobody does anything else, a chain that took blocks back does not grow to their height again.
        Raises ChainAway, RpcRefused.
        """
        while self.upto < block and await self.rpc.block_number() >= block:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S), self._moved:
                    await self._moved.wait_for(lambda: self.upto >= block)
