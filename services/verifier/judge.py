"""From an evidence's bytes to a breach, to the reason why none follows, or to what must be computed first.

Source of the rules: `events.evidence`. Knows no network: the same bytes get the same answer everywhere.
"""

from typing import assert_never

from events.breach import Breach
from events.evidence import Dissent, Evidence, hash_of, of_probes, of_receipts, read
from events.slash import Reported
from services.verifier.attesting import receipt_typed, signed_by, statement_typed
from services.verifier.metering import of_usage
from services.verifier.outputs import Open, opened


def judge(body: bytes) -> Breach | Dissent | Open:
    """What an attestor would sign for this evidence; `Open`: once it has computed what that says."""
    evidence = read(body)
    if isinstance(evidence, Dissent):
        return evidence
    case = evidence.reported
    match case.kind:
        case "no_show" | "stall":
            return _judge_probes(evidence, case, hash_of(body))
        case "equivocation":
            return _judge_receipts(evidence, case, hash_of(body))
        case "wrong_output" | "meter_fraud":
            return _judge_answer(evidence, case, hash_of(body))
        case _:
            assert_never(case.kind)


def judge_case(body: bytes, slash_id: str, reported: Reported) -> Breach | Dissent | Open:
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
    if evidence.receipts or evidence.answer is not None:
        return Dissent("evidence_malformed")
    return of_probes(case, evidence.statements, body_hash)


def _judge_receipts(evidence: Evidence, case: Reported, body_hash: str) -> Breach | Dissent:
    for receipt in evidence.receipts:
        if not signed_by(case.receipt_key, receipt_typed(case, receipt), receipt.signature):
            return Dissent("receipt_forged")
    if evidence.statements or evidence.answer is not None:
        return Dissent("evidence_malformed")
    return of_receipts(case, evidence.receipts, body_hash)


def _judge_answer(evidence: Evidence, case: Reported, body_hash: str) -> Breach | Dissent | Open:
    answer = evidence.answer
    if answer is None or evidence.statements or evidence.receipts:
        return Dissent("evidence_malformed")
    return (opened if case.kind == "wrong_output" else of_usage)(case, answer, body_hash)
