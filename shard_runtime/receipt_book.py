"""What this node has signed of late: the receipts of each attempt, on disk before anybody sees them.

Knows nothing of rings or of how receipts travel. The node's word on one input is given once: whatever is
computed again after a crash, in another pool or at another's wish, no second output is ever signed for it.
"""

from collections import deque
from pathlib import Path
from threading import Lock

import msgspec
import structlog

from shard_runtime.lines import Lines
from shard_runtime.receipts import Hashed, SegmentReceipt, Terms, Usage, sign_receipt, sign_usage
from shard_runtime.signing import ReceiptKey

KEEP = 256

log = structlog.get_logger()


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pool_id: str
    attempt: int
    request_id: str
    terms: Terms
    receipts: tuple[SegmentReceipt, ...]


class ReceiptBook:
    """`receipts.jsonl` in `state_dir`, fsynced: the newest `keep` attempts (in the file thrice that)."""

    def __init__(self, state_dir: Path, key: ReceiptKey, keep: int = KEEP) -> None:
        self._key, self._writing = key, Lock()
        self._kept: deque[_Line] = deque(maxlen=keep)
        path = state_dir / "receipts.jsonl"
        self._lines = Lines(path, _Line, keep, self._kept.append, lambda: self._kept)

    def of(self, pool_id: str, attempt: int, request_id: str) -> tuple[SegmentReceipt, ...]:
        """The latest that were signed for this attempt; () when none are kept."""
        wanted = (pool_id, attempt, request_id)
        for line in reversed(tuple(self._kept)):
            if (line.pool_id, line.attempt, line.request_id) == wanted:
                return line.receipts
        return ()

    def sign(
        self, pool_id: str, attempt: int, request_id: str, terms: Terms, segments: tuple[Hashed, ...]
    ) -> tuple[SegmentReceipt, ...]:
        """Durable when it returns: call it off the event loop. Raises OSError when it can't be.

        () when one of them would contradict what this node signed before: then none is signed.
        """
        with self._writing:
            signed = {
                (old.segment, old.input_hash): old.output_hash
                for line in self._kept
                if (line.terms, line.attempt, line.request_id) == (terms, attempt, request_id)
                for old in line.receipts
            }
            if any(signed.get((one.segment, one.input_hash), one.output_hash) != one.output_hash
                   for one in segments):  # fmt: skip
                log.error("receipts_withheld", request_id=request_id, pool_id=pool_id, attempt=attempt)
                return ()
            receipts = tuple(sign_receipt(self._key, terms, request_id, attempt, one) for one in segments)
            self._lines.append(_Line(pool_id, attempt, request_id, terms, receipts))
            return receipts

    def sign_usage(self, terms: Terms, session_id: str, request_id: str, attempt: int, usage: Usage) -> Usage:
        """Not kept here: it goes into the report, which the journal keeps."""
        return sign_usage(self._key, terms, session_id, request_id, attempt, usage)

    def close(self) -> None:
        self._lines.close()
