"""Evidence of a breach as bytes that are the same for everybody, and what follows from them.

Canonical: JSON in UTF-8, keys sorted, no white space, no floats; its name is its SHA-256. Knows no signature
scheme: whoever judges checks first who signed (`services.verifier.judge`).
"""

import hashlib
from itertools import pairwise
from typing import Any, Literal

import msgspec

from events.breach import Breach, Signature
from events.chain import ChainHash
from events.kept_answer import KeptAnswer, in_order
from events.kernel import Address, Hash, Ulid
from events.probing import rhythm
from events.slash import Reported

VERSION = 1
MAX_BYTES = 256 * 1024
Reason = Literal[
    "evidence_altered",
    "evidence_malformed",
    "evidence_not_canonical",
    "evidence_of_another_case",
    "statement_forged",
    "statement_foreign",
    "vantage_points_missing",
    "probe_answered",
    "probes_too_few",
    "probes_too_many",
    "probes_too_sparse",
    "probes_too_short",
    "probes_outside_window",
    "receipt_forged",
    "receipts_agree",
    "receipts_missing",
    "input_differs",
    "usage_forged",
    "usage_agrees",
    "not_deterministic",
    "answered_me",
]
"""Why an attestor dissents. `answered_me`: from its own vantage point the node did answer.

`evidence_altered`: the bytes it was given have another hash.
"""


class Probe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A challenge with this nonce was sent, and answered by the node's receipt key in time, or not."""

    sent_unix_ms: int
    nonce: Hash
    answered: bool


class Statement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One attestor's account of its probes, in their order, signed by it."""

    slash_id: Ulid
    node_id: Ulid
    attestor: Address
    probes: tuple[Probe, ...]
    signature: Signature


class SignedReceipt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """ICoalition.sol's Receipt, field by field, and the node's EIP-712 signature."""

    epoch: int
    session: Address
    request: ChainHash
    segment: int
    attempt: int
    input_hash: ChainHash
    output_hash: ChainHash
    signature: Signature


class Evidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The case, and what proves it: statements for `no_show` and `stall`, two receipts for `equivocation`, an
    answer for `wrong_output` and `meter_fraud`.
    """

    version: int
    slash_id: Ulid
    case: dict[str, Any]
    statements: tuple[Statement, ...] = ()
    receipts: tuple[SignedReceipt, ...] = ()
    answer: KeptAnswer | None = None

    @property
    def reported(self) -> Reported:
        """Raises msgspec.ValidationError."""
        return msgspec.convert(self.case, Reported)


class Dissent(msgspec.Struct, frozen=True):
    """No breach follows."""

    reason: Reason


def canonical(value: msgspec.Struct) -> bytes:
    return msgspec.json.encode(value, order="sorted")


def hash_of(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def probes_hash(probes: tuple[Probe, ...]) -> str:
    """What an attestor signs of its probes."""
    return hash_of(msgspec.json.encode(probes, order="sorted"))


def assembled(
    slash_id: str,
    case: Reported,
    statements: tuple[Statement, ...] = (),
    receipts: tuple[SignedReceipt, ...] = (),
    answer: KeptAnswer | None = None,
) -> bytes:
    """The one evidence of these statements, receipts or answer, whatever the order in which they came."""
    by_attestor = sorted(statements, key=lambda statement: int(statement.attestor, 16))
    by_output = sorted(receipts, key=lambda receipt: receipt.output_hash)
    told = msgspec.to_builtins(case)
    return canonical(Evidence(VERSION, slash_id, told, tuple(by_attestor), tuple(by_output), answer))


def read(body: bytes) -> Evidence | Dissent:
    """The evidence in these bytes, if they are just the bytes that anybody would write for it."""
    if len(body) > MAX_BYTES:
        return Dissent("evidence_malformed")
    try:
        evidence = msgspec.json.decode(body, type=Evidence)
        case = evidence.reported
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Dissent("evidence_malformed")
    again = assembled(evidence.slash_id, case, evidence.statements, evidence.receipts, evidence.answer)
    ordered = evidence.answer is None or in_order(evidence.answer)
    if evidence.version != VERSION or again != body or not ordered:
        return Dissent("evidence_not_canonical")
    return evidence


def of_probes(case: Reported, statements: tuple[Statement, ...], body_hash: str) -> Breach | Dissent:
    """What follows from probes whose signatures hold: a quorum of vantage points, each silent for the SLA."""
    vantage_points = {statement.attestor.lower() for statement in statements}
    known = {attestor.lower() for attestor in case.attestors} - {case.operator.lower()}
    if not vantage_points <= known or len(vantage_points) != len(statements):
        return Dissent("statement_foreign")
    if len(vantage_points) < case.quorum:
        return Dissent("vantage_points_missing")
    for statement in statements:
        flaw = flaw_of(case, statement.probes)
        if flaw is not None:
            return Dissent(flaw)
    first = min(statement.probes[0].sent_unix_ms for statement in statements)
    last = max(statement.probes[-1].sent_unix_ms for statement in statements)
    fewest = min(len(statement.probes) for statement in statements)
    return breach_of(case, body_hash, fewest, -(-(last - first) // 1000))


def flaw_of(case: Reported, probes: tuple[Probe, ...]) -> Reason | None:
    """Why these probes of one vantage point show nothing; None: it was silent for the SLA."""
    beat = rhythm(case.least_probes, case.longest_probe_window_s)
    if any(probe.answered for probe in probes):
        return "probe_answered"
    if len(probes) < max(case.least_probes, 2) or len({probe.nonce for probe in probes}) != len(probes):
        return "probes_too_few"
    if len(probes) > 2 * beat.count:
        return "probes_too_many"
    sent = [probe.sent_unix_ms for probe in probes]
    gaps = [later - earlier for earlier, later in pairwise(sent)]
    if min(gaps) < 0 or max(gaps) > beat.gap_ms:
        return "probes_too_sparse"
    if sent[-1] - sent[0] < beat.sla_ms:
        return "probes_too_short"
    until = case.at_unix_ms + case.longest_probe_window_s * 1000
    return "probes_outside_window" if sent[0] < case.at_unix_ms or sent[-1] > until else None


def of_receipts(case: Reported, receipts: tuple[SignedReceipt, ...], body_hash: str) -> Breach | Dissent:
    """What follows from two receipts that the node signed: equal in all but their output, a lie."""
    if not case.deterministic:
        return Dissent("not_deterministic")
    if len(receipts) != 2 or any(one.session.lower() != case.escrow.lower() for one in receipts):
        return Dissent("receipts_agree")
    asked = [(one.epoch, one.request, one.segment, one.attempt, one.input_hash) for one in receipts]
    if asked[0] != asked[1] or receipts[0].output_hash == receipts[1].output_hash:
        return Dissent("receipts_agree")
    return breach_of(case, body_hash, 0, 0)


def breach_of(case: Reported, body_hash: str, failed_probes: int, probe_window_s: int) -> Breach:
    return Breach(
        session=case.escrow,
        operator=case.operator,
        kind=case.kind,
        amount_micro=case.most_micro,
        evidence_hash=body_hash,
        failed_probes=failed_probes,
        probe_window_s=probe_window_s,
        deadline_unix_s=case.votes_until_unix_s,
    )
