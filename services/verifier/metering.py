"""Whether an entry's signed account has more tokens than its own signed receipts; the rule for `meter_fraud`.

Pure, and without a model: what goes into an entry are token ids. Knows no network.
"""

import msgspec

from events.breach import Breach
from events.evidence import Dissent, breach_of
from events.kept_answer import KeptAnswer, KeptUsage
from events.seat import Seat
from events.slash import Reported
from services.verifier.answers import said_by
from services.verifier.outputs import forged, receipts_of, sampling_of, terms_of
from shard_runtime.messages import Sampling
from shard_runtime.receipts import (
    NodeReceipts,
    SegmentHashes,
    Usage,
    hash_of,
    token_bytes,
    usage_statement,
)
from shard_runtime.recomputed import MAX_TOKENS, positions


def of_usage(case: Reported, answer: KeptAnswer, body_hash: str) -> Breach | Dissent:
    """A breach when fewer passes were signed for than tokens were told that the passes gave."""
    seat, usage, sampling = case.seat, answer.usage, sampling_of(answer)
    if seat is None or usage is None or not seat.is_entry:
        return Dissent("evidence_malformed")
    if sampling is None:
        return Dissent("evidence_not_canonical")
    if not said_by(case.receipt_key, statement_of(case, seat, answer, usage), usage.signature):
        return Dissent("usage_forged")
    if forged(case, answer):
        return Dissent("receipt_forged")
    if own_receipts(case, answer) != usage.own_receipts:
        return Dissent("receipts_missing")
    claimed = usage.completion_tokens - usage.resumed_tokens
    if sum(receipt.steps for receipt in answer.receipts) >= claimed:
        shown = passes_shown(answer, usage.first_step, sampling if seat.is_exit else None)
        if shown is None:
            return Dissent("input_differs")
        if shown >= claimed:
            return Dissent("usage_agrees")
    return breach_of(case, body_hash, 0, 0)


def statement_of(case: Reported, seat: Seat, answer: KeptAnswer, usage: KeptUsage) -> bytes:
    """The bytes that the entry signed."""
    told = msgspec.convert(msgspec.to_builtins(usage), Usage)
    return usage_statement(terms_of(case, answer), case.session_id, answer.request_id, seat.attempt, told)


def own_receipts(case: Reported, answer: KeptAnswer) -> str:
    return hash_of(NodeReceipts(case.node_id, receipts_of(answer)))


def passes_shown(answer: KeptAnswer, first_step: int, sampling: Sampling | None) -> int | None:
    """How many passes the last receipt's input is of, by these token ids; None: it is of other ids.

    Whoever can show the passes behind a hash has shown how many there are: nobody finds others.
    """
    ids, passes = answer.prompt_ids + answer.completion_ids, 0
    if not answer.receipts or len(ids) > MAX_TOKENS or not 1 <= answer.first_pass <= len(ids):
        return None
    last, hashes = answer.receipts[-1], SegmentHashes(sampling)
    for step, n in positions(len(ids), answer.first_pass):
        if step < first_step:
            continue
        hashes.add(step, n, token_bytes(ids[step : step + n]), b"")
        passes += 1
        now = hashes.latest()
        if (now.segment, now.input_hash) == (last.segment, last.input_hash):
            return passes
    return None
