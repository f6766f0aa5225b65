"""Slash events to rows of `slashes`; knows no other aggregate."""

from typing import assert_never

from events import claim, slash
from events.breach import VoteCast
from events.envelope import Recorded
from projections.changes import Add, Append, Change, Put


def changes_of(recorded: Recorded, event: slash.SlashEvent) -> tuple[Change, ...]:
    """Row changes of one slash event. `state` is the last thing that was told."""
    seen = {"changed_unix_ms": recorded.time_unix_ms, "position": recorded.position}
    key = (recorded.aggregate_id,)

    def put(**values: object) -> Put:
        return Put("slashes", key, values | seen)

    match event:
        case slash.Reported():
            return (_made(recorded, event),)
        case slash.Probed():
            return Add("slashes", key, {"statements": 1}), put()
        case slash.EvidenceAdded(evidence_hash):
            return (put(state="proven", evidence_hash=evidence_hash),)
        case VoteCast():
            counted = "votes" if event.verdict == "breach" else "dissents"
            return Add("slashes", key, {counted: 1}), put()
        case slash.QuorumReached(breach):
            return (put(state="voted", amount_micro=breach.amount_micro),)
        case slash.ReportRejected(code):
            return (put(state="rejected", code=code),)
        case claim.ClaimOpened(claim_id, amount_micro, executable_at_unix_s, at):
            claimed = {"claim_id": claim_id, "amount_micro": amount_micro, "tx": at.tx}
            return (put(state="claimed", executable_at_unix_s=executable_at_unix_s, **claimed),)
        case claim.Disputed(_, _, rule_by_unix_s, at):
            return (put(state="disputed", rule_by_unix_s=rule_by_unix_s, tx=at.tx),)
        case claim.Upheld(_, _, at):
            return (put(state="upheld" if event.upheld else "overruled", tx=at.tx),)
        case claim.Executed(_, payer, to_payer_micro, to_treasury_micro, at):
            paid = {"to_payer_micro": to_payer_micro, "to_treasury_micro": to_treasury_micro}
            return (put(state="executed", payer=payer, tx=at.tx, **paid),)
        case claim.Cancelled(_, at):
            return (put(state="cancelled", tx=at.tx),)
        case claim.Reverted(_, _, _, at):
            return (put(state="reverted", tx=at.tx, to_payer_micro=None, to_treasury_micro=None),)
        case _:
            assert_never(event)


def _made(recorded: Recorded, case: slash.Reported) -> Append:
    return Append(
        "slashes",
        {
            "id": recorded.aggregate_id,
            "session_id": case.session_id,
            "pool_id": case.pool_id,
            "node_id": case.node_id,
            "operator": case.operator,
            "kind": case.kind,
            "chain_id": case.chain_id,
            "escrow": case.escrow,
            "coalition": case.coalition,
            "quorum": case.quorum,
            "attestors": len(case.attestors),
            "reporter": case.reporter,
            "state": "reported",
            "code": None,
            "statements": 0,
            "evidence_hash": None,
            "votes": 0,
            "dissents": 0,
            "amount_micro": None,
            "claim_id": None,
            "executable_at_unix_s": None,
            "rule_by_unix_s": None,
            "payer": None,
            "to_payer_micro": None,
            "to_treasury_micro": None,
            "tx": None,
            "reported_unix_ms": case.at_unix_ms,
            "changed_unix_ms": recorded.time_unix_ms,
            "created_position": recorded.position,
            "position": recorded.position,
        },
    )
