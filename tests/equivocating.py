"""A worker that signs two outputs for one input, with two journals, and the call that proves it.

Knows nothing of the event log; what is signed nobody computed.
"""

from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from services.chain.contract import Contract
from shard_runtime.messages import Sampling
from shard_runtime.receipt_book import ReceiptBook
from shard_runtime.receipts import SegmentHashes, SegmentReceipt, Terms, request_hash, token_bytes
from shard_runtime.signing import ReceiptKey
from tests.aggregates import ulid

SAMPLING = Sampling(seed=11, temperature=0.7)
REQUEST, POOL, ATTEMPT = ulid(601), ulid(500), 7
PROMPT, ANSWER = tuple(range(40)), tuple(range(100, 130))
"""A prefill and single tokens: segments 1 and 2."""


@dataclass(frozen=True)
class Signed:
    """A receipt as its worker keeps it, and what it is about."""

    terms: Terms
    request_id: str
    attempt: int
    receipt: SegmentReceipt

    def as_tuple(self) -> tuple[object, ...]:
        """`Receipt` of ICoalition.sol."""
        hashes = (bytes.fromhex(self.receipt.input_hash), bytes.fromhex(self.receipt.output_hash))
        request, segment = request_hash(self.request_id), self.receipt.segment
        return (self.terms.epoch, self.terms.escrow, request, segment, self.attempt, *hashes)

    def signature(self) -> bytes:
        return bytes.fromhex(self.receipt.signature)

    def altered(self, **changes: object) -> "Signed":
        return Signed(self.terms, self.request_id, self.attempt, replace(self.receipt, **changes))


class Worker:
    """The part of a shard that signs, with a journal of its own: who restores an older one has a second."""

    def __init__(self, directory: Path, key: ReceiptKey) -> None:
        directory.mkdir(exist_ok=True)
        self.book = ReceiptBook(directory, key)

    def serve(
        self, terms: Terms, lie: int | None = None, request_id: str = REQUEST, attempt: int = ATTEMPT
    ) -> list[Signed]:
        """One answer, as the exit of a ring of one. `lie`: the position at which it says another token."""
        hashes = SegmentHashes(SAMPLING)
        given, at = PROMPT, 0
        for token in ANSWER:
            leads_to = at + len(given)
            said = token + 1 if leads_to == lie else token
            hashes.add(at, len(given), token_bytes(given), token_bytes((said,)))
            given, at = (token,), leads_to
        signed = self.book.sign(POOL, attempt, request_id, terms, hashes.segments())
        self.book.close()
        return [Signed(terms, request_id, attempt, one) for one in signed]


def calldata(coalition: Contract, session: str, first: Signed, second: Signed) -> bytes:
    return coalition.calldata(
        "proveEquivocation",
        session,
        first.as_tuple(),
        first.signature(),
        second.as_tuple(),
        second.signature(),
    )
