"""Which of the receipts that an entry handed on hold: signed by the ring's own nodes, about this request.

Pure; used where receipts are kept and where a transcript is made, so that both have the same ones.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from services.verifier.answers import said_by
from services.verifier.attesting import digest_signed_by
from shard_runtime.messages import FinishReason, PlanMember
from shard_runtime.receipts import (
    NodeReceipts,
    SegmentReceipt,
    Terms,
    Usage,
    hash_of,
    receipt_digest,
    usage_statement,
)


@dataclass(frozen=True)
class About:
    """What receipts are about. `attempt`: the epoch of the plan, whose `members` are in ring order."""

    terms: Terms
    session_id: str
    request_id: str
    attempt: int
    members: Sequence[PlanMember]


@dataclass(frozen=True)
class Checked:
    """What holds, in ring order; `missing`: members that computed and have nothing here."""

    receipts: tuple[NodeReceipts, ...]
    usage: Usage | None
    missing: tuple[str, ...]


def owed(finish_reason: FinishReason, completion_tokens: int) -> int:
    """For how many tokens receipts are due: when a ring breaks, its entry waits for nobody's."""
    return 0 if finish_reason == "error" else completion_tokens


def checked(about: About, said: Iterable[NodeReceipts], usage: Usage | None, due: int) -> Checked:
    """A node's receipts hold together or not at all, so that none of them can be quietly spoilt.

    The entry's account of usage holds when it names the entry's own receipts as they are here.
    """
    told = {one.node_id: one for one in said}
    ring = [(member, told.get(member.node_id)) for member in about.members]
    kept = tuple(node for member, node in ring if node is not None and _holds(about, member, node))
    entry = about.members[0]
    own = next((one for one in kept if one.node_id == entry.node_id), None)
    if usage is not None and not _usage_holds(about, entry, own, usage):
        usage = None
    computed = due - (0 if usage is None else usage.resumed_tokens)
    present = {one.node_id for one in kept}
    missing = tuple(
        member.node_id
        for member in about.members
        if computed > 0 and (member.node_id not in present or (member is entry and usage is None))
    )
    return Checked(kept, usage, missing)


def _holds(about: About, member: PlanMember, node: NodeReceipts) -> bool:
    """Segments in ascending order, each signed by the member."""
    segments = [one.segment for one in node.receipts]
    return (
        bool(segments)
        and segments == sorted(set(segments))
        and all(_signed(about, member, one) for one in node.receipts)
    )


def _signed(about: About, member: PlanMember, receipt: SegmentReceipt) -> bool:
    digest = receipt_digest(about.terms, about.request_id, about.attempt, receipt)
    return digest_signed_by(member.receipt_key, digest, receipt.signature)


def _usage_holds(about: About, entry: PlanMember, own: NodeReceipts | None, usage: Usage) -> bool:
    if own is None or usage.own_receipts != hash_of(own):
        return False
    said = usage_statement(about.terms, about.session_id, about.request_id, about.attempt, usage)
    return said_by(entry.receipt_key, said, usage.signature)
