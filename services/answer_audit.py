"""What a transcript says of each node of its ring, once the answer was computed again; knows no network.

Whoever audits believes only the transcript's tokens, which are the payer's own, and the weights.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec

from events.kept_answer import KeptReceipt
from services.accusing import TranscriptInvalid, check_whole, first_pass
from services.verifier.answers import said_by
from services.verifier.attesting import digest_signed_by
from services.verifier.outputs import compared
from shard_runtime.receipts import SegmentReceipt, receipt_digest, usage_statement
from shard_runtime.recomputed import Rerun, StagePasses
from shard_runtime.transcripts import Member, Transcript

Found = Literal["agrees", "lied", "overcharged", "input_differs", "forged", "silent"]
LIES: tuple[Found, ...] = ("lied", "overcharged", "forged")


class Finding(msgspec.Struct, frozen=True):
    """`lied`: what went in is right and what it signed as its output is not, in `segment`, the first such.

    `input_differs`: what went in is not what the nodes before it should have given; its outputs say nothing.
    `overcharged`: the entry signed for more tokens than for passes that gave one. `forged`: a signature is
    not the node's. `silent`: no receipts.
    """

    node_id: str
    first_layer: int
    end_layer: int
    found: Found
    receipts: int
    segment: int | None = None


def rerun_of(transcript: Transcript) -> Rerun:
    """One stage as each member of the ring. Raises AttemptMoved, TranscriptInvalid."""
    check_whole(transcript)
    ids = transcript.prompt_ids + transcript.completion_ids
    told = {
        "weights_digest": transcript.weights_digest,
        "dtype": transcript.dtype,
        "num_layers": transcript.members[-1].end_layer,
        "max_context": len(ids) + 1,
        "cuts": [0, *(member.end_layer for member in transcript.members)],
        "ids": ids,
        "first_pass": first_pass(transcript),
        "sampling": msgspec.to_builtins(transcript.sampling),
    }
    try:
        return msgspec.convert(told, Rerun)
    except msgspec.ValidationError as impossible:
        raise TranscriptInvalid(str(impossible)) from impossible


def findings(transcript: Transcript, stages: Sequence[StagePasses]) -> tuple[Finding, ...]:
    """Of every member, in ring order."""
    return tuple(
        _finding(transcript, member, stage) for member, stage in zip(transcript.members, stages, strict=True)
    )


def _finding(transcript: Transcript, member: Member, stage: StagePasses) -> Finding:
    signed = [one for told in transcript.receipts if told.node_id == member.node_id for one in told.receipts]

    def found(what: Found, segment: int | None = None) -> Finding:
        layers = (member.first_layer, member.end_layer)
        return Finding(member.node_id, *layers, what, len(signed), segment)

    if not signed:
        return found("silent")
    terms = transcript.terms
    for one in signed:
        digest = receipt_digest(terms, transcript.request_id, transcript.attempt, one)
        if not digest_signed_by(member.receipt_key, digest, one.signature):
            return found("forged", one.segment)
    for one in signed:
        kept = KeptReceipt(one.segment, one.steps, one.input_hash, one.output_hash, one.signature)
        reason = compared((kept,), stage.passes)
        if reason == "input_differs":
            return found("input_differs", one.segment)
        if reason is None:
            return found("lied", one.segment)
    if member is transcript.members[0] and transcript.usage is not None:
        return found(_metered(transcript, signed[-1], stage))
    return found("agrees")


def _metered(transcript: Transcript, last: SegmentReceipt, stage: StagePasses) -> Found:
    """The entry's account beside its receipts, which agree."""
    usage, entry = transcript.usage, transcript.members[0]
    assert usage is not None
    ids = (transcript.session_id, transcript.request_id, transcript.attempt)
    if not said_by(entry.receipt_key, usage_statement(transcript.terms, *ids, usage), usage.signature):
        return "forged"
    inputs = [(one.segment, one.input_hash) for one in stage.passes]
    shown = inputs.index((last.segment, last.input_hash)) + 1
    return "overcharged" if shown < usage.completion_tokens - usage.resumed_tokens else "agrees"
