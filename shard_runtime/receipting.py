"""The receipts of one stage's requests: opened with their terms, signed when they end.

Knows nothing of frames or of who hears of them. The hashes belong to the compute thread, signing and disk to
a thread of their own; the event loop only waits.
"""

import asyncio
from collections.abc import Callable

import structlog

from shard_runtime.compute import ComputeThread
from shard_runtime.messages import Sampling
from shard_runtime.plan import Plan
from shard_runtime.receipt_book import ReceiptBook
from shard_runtime.receipts import SegmentHashes, SegmentReceipt, Terms, Usage
from shard_runtime.work import Ledger

Told = tuple[SegmentReceipt, ...]

log = structlog.get_logger()


class Receipting:
    """`plan.me`'s; at each call the request is named by its id. All methods run on the event loop."""

    def __init__(self, plan: Plan, compute: ComputeThread, book: ReceiptBook) -> None:
        self._plan, self._compute, self._book = plan, compute, book
        self._signing: dict[str, asyncio.Task[None]] = {}

    def ledger(self, terms: Terms | None, sampling: Sampling) -> Ledger | None:
        """A new one; a request without terms has none."""
        if terms is None:
            return None
        return Ledger(terms, SegmentHashes(sampling if self._plan.is_exit else None))

    async def signed(self, rid: str, ledger: Ledger | None) -> Told:
        """On disk when it returns; () when nothing was computed, or could not be kept; may be repeated."""
        if ledger is None:
            return ()
        segments = await self._compute.call(ledger.hashes.segments)
        if not segments:
            return ()
        pool_id, attempt = self._plan.pool_id, self._plan.epoch
        try:
            return await asyncio.to_thread(self._book.sign, pool_id, attempt, rid, ledger.terms, segments)
        except OSError as failure:
            log.error("receipts_unwritten", request_id=rid, error=repr(failure))
            return ()

    def tell(self, rid: str, ledger: Ledger | None, then: Callable[[Told], None]) -> None:
        """Call `then` with the receipts of a request that ended, now or soon; a repeat meanwhile is nothing.

        Of one that is not known here any more: with what was signed when it ended.
        """
        if rid in self._signing:
            return
        if ledger is None:
            then(self._book.of(self._plan.pool_id, self._plan.epoch, rid))
            return

        async def sign() -> None:
            try:
                then(await self.signed(rid, ledger))
            finally:
                del self._signing[rid]

        self._signing[rid] = asyncio.get_running_loop().create_task(sign())

    def account(self, ledger: Ledger, session_id: str, rid: str, usage: Usage) -> Usage:
        """`usage` signed, of this ring's attempt."""
        return self._book.sign_usage(ledger.terms, session_id, rid, self._plan.epoch, usage)
