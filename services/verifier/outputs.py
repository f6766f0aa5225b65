"""Whether what a node signed as its output is what its layers give; the rule for `wrong_output`.

Pure: someone else computes (`services.verifier.recomputing`). Knows no network and no model.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from events.breach import Breach
from events.evidence import Dissent, Reason, breach_of
from events.kept_answer import KeptAnswer, KeptReceipt
from events.seat import Seat
from events.slash import Reported
from services.verifier.attesting import digest_signed_by
from shard_runtime.messages import Sampling
from shard_runtime.receipts import SegmentReceipt, Terms, receipt_digest, segment_of
from shard_runtime.recomputed import MAX_CONTEXT, MAX_STAGES, MAX_TOKENS, Pass, Rerun, StagePasses, positions


@dataclass(frozen=True)
class Open:
    """Everything holds that bytes can show; the rest only the layers can tell, by computing `rerun`."""

    case: Reported
    seat: Seat
    answer: KeptAnswer
    sampling: Sampling
    body_hash: str

    @property
    def rerun(self) -> Rerun:
        """As many layers at a time as the accused has, so that it takes no more memory than a node has."""
        seat, last = self.seat, self.answer.receipts[-1].segment
        ids = self.answer.prompt_ids + self.answer.completion_ids
        fed = [step + n for step, n in positions(len(ids), self.answer.first_pass)]
        until = max((end for end in fed if segment_of(0, end) <= last), default=fed[0])
        width = max(seat.end_layer - seat.first_layer, -(-seat.first_layer // (MAX_STAGES - 1)))
        return Rerun(
            weights_digest=seat.weights_digest,
            dtype=seat.dtype,
            num_layers=seat.num_layers,
            max_context=seat.context_length,
            cuts=(*range(0, seat.first_layer, width), seat.first_layer, seat.end_layer),
            ids=ids[:until],
            first_pass=self.answer.first_pass,
            sampling=self.sampling,
        )

    def concluded(self, stages: Sequence[StagePasses]) -> Breach | Dissent:
        """What follows from the rerun's last stage, which is the accused's."""
        reason = compared(self.answer.receipts, stages[-1].passes)
        return breach_of(self.case, self.body_hash, 0, 0) if reason is None else Dissent(reason)


def opened(case: Reported, answer: KeptAnswer, body_hash: str) -> Open | Dissent:
    """What can be seen without the model: who signed, and that there is something to compute."""
    if not case.deterministic:
        return Dissent("not_deterministic")
    seat, sampling = case.seat, sampling_of(answer)
    if seat is None:
        return Dissent("evidence_malformed")
    if sampling is None:
        return Dissent("evidence_not_canonical")
    if forged(case, answer):
        return Dissent("receipt_forged")
    if not answer.receipts:
        return Dissent("receipts_missing")
    tokens = len(answer.prompt_ids) + len(answer.completion_ids)
    if tokens > MAX_TOKENS or seat.context_length > MAX_CONTEXT:
        return Dissent("evidence_malformed")
    if not 1 <= answer.first_pass <= tokens <= seat.context_length:
        return Dissent("input_differs")
    return Open(case, seat, answer, sampling, body_hash)


def sampling_of(answer: KeptAnswer) -> Sampling | None:
    """None when it is not just the text that anybody would write."""
    try:
        found = msgspec.json.decode(answer.sampling, type=Sampling)
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError):
        return None
    return found if msgspec.json.encode(found, order="sorted") == answer.sampling.encode() else None


def forged(case: Reported, answer: KeptAnswer) -> bool:
    """Is there a receipt that the accused has not signed, for this session, request and attempt?"""
    terms, attempt = terms_of(case, answer), 0 if case.seat is None else case.seat.attempt
    digests = (
        (receipt_digest(terms, answer.request_id, attempt, one), one.signature) for one in receipts_of(answer)
    )
    return not all(digest_signed_by(case.receipt_key, *signed) for signed in digests)


def terms_of(case: Reported, answer: KeptAnswer) -> Terms:
    """What the accused signed its receipts about, if it did."""
    return Terms(case.chain_id, case.coalition, answer.chain_epoch, case.escrow)


def receipts_of(answer: KeptAnswer) -> tuple[SegmentReceipt, ...]:
    """As they were signed."""
    return msgspec.convert(msgspec.to_builtins(answer.receipts), tuple[SegmentReceipt, ...])


def compared(receipts: Sequence[KeptReceipt], passes: Iterable[Pass]) -> Reason | None:
    """None: a signed output is not what the layers give, though all that went in until then is.

    A segment's hash says what went in before the segment, too, so any one receipt is enough. How many passes
    a receipt says it has is nobody's word: the input's hash tells.
    """
    by_input = {(one.segment, one.input_hash): one.output_hash for one in passes}
    for receipt in receipts:
        output_hash = by_input.get((receipt.segment, receipt.input_hash))
        if output_hash is None:
            return "input_differs"
        if output_hash != receipt.output_hash:
            return None
    return "receipts_agree"
