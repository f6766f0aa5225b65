"""From a payer's transcripts to the evidence against one node of the ring; knows no network and no model."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from events.evidence import SignedReceipt
from events.kept_answer import KeptAnswer, KeptReceipt, KeptUsage
from shard_runtime.messages import Sampling
from shard_runtime.receipts import NodeReceipts, SegmentReceipt, request_hash
from shard_runtime.transcripts import Transcript


class TranscriptInvalid(Exception):
    """transcript_invalid: the file is no transcript; computepool chat --transcript writes one."""

    code = "transcript_invalid"


class AttemptMoved(Exception):
    """attempt_moved: it went on from KV that an earlier attempt made; its receipts don't say what went in."""

    code = "attempt_moved"


class NotInTranscript(Exception):
    """not_in_transcript: this node signed nothing there that could be held against it."""

    code = "not_in_transcript"


class TranscriptsUnsuited(Exception):
    """transcripts_unsuited: wrong_output and meter_fraud take one transcript, equivocation two."""

    code = "transcripts_unsuited"


class NothingTwice(Exception):
    """nothing_twice: no segment stands in both transcripts with one input and two outputs."""

    code = "nothing_twice"


@dataclass(frozen=True)
class Proof:
    """What an evidence holds beside its case. `attempt`: of kinds whose case says what had to be computed."""

    attempt: int | None
    receipts: tuple[SignedReceipt, ...] = ()
    answer: KeptAnswer | None = None


def proof_of(kind: str, node_id: str, transcripts: Sequence[Transcript]) -> Proof:
    """Raises TranscriptsUnsuited, AttemptMoved, NotInTranscript, NothingTwice."""
    match kind, transcripts:
        case "wrong_output", [one]:
            check_whole(one)
            return Proof(one.attempt, answer=kept_answer(one, node_id))
        case "meter_fraud", [one]:
            return Proof(one.attempt, answer=kept_answer(one, node_id))
        case "equivocation", [one, other]:
            return Proof(None, receipts=two_outputs(one, other, node_id))
        case _:
            raise TranscriptsUnsuited(f"{len(transcripts)} for {kind}")


def read_transcript(raw: bytes) -> Transcript:
    """Raises TranscriptInvalid."""
    try:
        return msgspec.json.decode(raw, type=Transcript)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as broken:
        raise TranscriptInvalid(str(broken)) from broken


def receipts_of(transcript: Transcript, node_id: str) -> NodeReceipts:
    """Raises NotInTranscript."""
    found = [one for one in transcript.receipts if one.node_id == node_id]
    if len(found) != 1 or not found[0].receipts:
        raise NotInTranscript(f"node {node_id} signed no receipts of request {transcript.request_id}")
    return found[0]


def kept_answer(transcript: Transcript, node_id: str) -> KeptAnswer:
    """What proves `wrong_output` or `meter_fraud`, if anything does. Raises NotInTranscript."""
    usage = transcript.usage if transcript.members[0].node_id == node_id else None
    return KeptAnswer(
        chain_epoch=transcript.terms.epoch,
        request_id=transcript.request_id,
        prompt_ids=transcript.prompt_ids,
        completion_ids=transcript.completion_ids,
        first_pass=first_pass(transcript),
        sampling=sampling_text(transcript.sampling),
        receipts=msgspec.convert(
            msgspec.to_builtins(receipts_of(transcript, node_id).receipts), tuple[KeptReceipt, ...]
        ),
        usage=None if usage is None else msgspec.convert(msgspec.to_builtins(usage), KeptUsage),
    )


def first_pass(transcript: Transcript) -> int:
    """An attempt begins with the prompt and what earlier attempts had made."""
    resumed = 0 if transcript.usage is None else transcript.usage.resumed_tokens
    return len(transcript.prompt_ids) + resumed


def check_whole(transcript: Transcript) -> None:
    """Raises AttemptMoved: nobody can compute again what these nodes computed."""
    if transcript.first_step > 0:
        text = f"attempt {transcript.attempt} began at position {transcript.first_step}"
        raise AttemptMoved(text)


def sampling_text(sampling: Sampling) -> str:
    return msgspec.json.encode(sampling, order="sorted").decode()


def two_outputs(one: Transcript, other: Transcript, node_id: str) -> tuple[SignedReceipt, SignedReceipt]:
    """What proves `equivocation`. Raises NotInTranscript, NothingTwice."""
    if _about(one) != _about(other):
        raise NothingTwice("the transcripts are of different requests, attempts or coalitions")
    seconds = {
        (receipt.segment, receipt.input_hash): receipt for receipt in receipts_of(other, node_id).receipts
    }
    for first in receipts_of(one, node_id).receipts:
        second = seconds.get((first.segment, first.input_hash))
        if second is not None and second.output_hash != first.output_hash:
            return signed_receipt(one, first), signed_receipt(other, second)
    raise NothingTwice(f"node {node_id} signed one output for each input")


def _about(transcript: Transcript) -> tuple[object, ...]:
    terms = transcript.terms
    contracts = (terms.chain_id, terms.coalition.lower(), terms.epoch, terms.escrow.lower())
    return (*contracts, transcript.request_id, transcript.attempt)


def signed_receipt(transcript: Transcript, receipt: SegmentReceipt) -> SignedReceipt:
    """The contract's receipt that was signed."""
    return SignedReceipt(
        epoch=transcript.terms.epoch,
        session=transcript.terms.escrow,
        request="0x" + request_hash(transcript.request_id).hex(),
        segment=receipt.segment,
        attempt=transcript.attempt,
        input_hash="0x" + receipt.input_hash,
        output_hash="0x" + receipt.output_hash,
        signature=receipt.signature,
    )
