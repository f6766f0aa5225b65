"""From the bytes of an evidence to a breach, or to the reason why none follows; trusts nothing but the bytes.

Source of the rules: `events.evidence`. Knows no network: the same bytes get the same answer everywhere.
"""

from events.breach import Breach
from events.evidence import Dissent, Evidence, hash_of, of_probes, of_receipts, read
from events.slash import Reported
from services.verifier.attesting import receipt_typed, signed_by, statement_typed


def judge(body: bytes) -> Breach | Dissent:
    """What an attestor would sign for this evidence."""
    evidence = read(body)
    if isinstance(evidence, Dissent):
        return evidence
    case = evidence.reported
    match case.kind:
        case "no_show" | "stall":
            return _judge_probes(evidence, case, hash_of(body))
        case "equivocation":
            return _judge_receipts(evidence, case, hash_of(body))
        case _:
            return Dissent("evidence_kind_unsupported")


def judge_case(body: bytes, slash_id: str, reported: Reported) -> Breach | Dissent:
    """As `judge`, and the bytes must be about the breach that stands in the log."""
    evidence = read(body)
    if isinstance(evidence, Evidence) and (evidence.slash_id, evidence.reported) != (slash_id, reported):
        return Dissent("evidence_of_another_case")
    return judge(body)


def _judge_probes(evidence: Evidence, case: Reported, body_hash: str) -> Breach | Dissent:
    for statement in evidence.statements:
        if (statement.slash_id, statement.node_id) != (evidence.slash_id, case.node_id):
            return Dissent("statement_foreign")
        if not signed_by(statement.attestor, statement_typed(case, statement), statement.signature):
            return Dissent("statement_forged")
    if evidence.receipts:
        return Dissent("evidence_malformed")
    return of_probes(case, evidence.statements, body_hash)


def _judge_receipts(evidence: Evidence, case: Reported, body_hash: str) -> Breach | Dissent:
    for receipt in evidence.receipts:
        if not signed_by(case.receipt_key, receipt_typed(case, receipt), receipt.signature):
            return Dissent("receipt_forged")
    if evidence.statements:
        return Dissent("evidence_malformed")
    return of_receipts(case, evidence.receipts, body_hash)
