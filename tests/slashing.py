"""Well-formed cases, votes and chain facts of breaches for tests; knows no test."""

from typing import Any

from events import claim, slash
from events.breach import Breach, VoteCast
from events.coalition import BreachTerms
from tests.aggregates import digest, ulid
from tests.money import ref

ATTESTORS = tuple(f"0x{number:040x}" for number in (0xA1, 0xA2, 0xA3, 0xA4, 0xA5))
OPERATOR = "0x" + "0f" * 20
ESCROW = "0x" + "e5" * 20
COALITION = "0x" + "c0" * 20
AT_MS = 1_700_000_000_000
EVIDENCE = slash.EvidenceAdded(digest(1), 700)

BREACH_TERMS = BreachTerms(ATTESTORS, 3, (1_000_000, 1_000_000, 50_000_000, 100_000_000, 5), 3, 600, True)


def reported(**changes: Any) -> slash.Reported:
    """Five attestors, three of whom are a quorum."""
    values: dict[str, Any] = {
        "session_id": ulid(700),
        "pool_id": ulid(500),
        "node_id": ulid(1),
        "operator": OPERATOR,
        "receipt_key": "0x" + "0e" * 20,
        "kind": "stall",
        "chain_id": 31337,
        "escrow": ESCROW,
        "coalition": COALITION,
        "attestors": ATTESTORS,
        "quorum": 3,
        "most_micro": 1_000_000,
        "least_probes": 3,
        "longest_probe_window_s": 600,
        "reporter": "policy",
        "at_unix_ms": AT_MS,
    }
    return slash.Reported(**(values | changes))


def breach(**changes: Any) -> Breach:
    values: dict[str, Any] = {
        "session": ESCROW,
        "operator": OPERATOR,
        "kind": "stall",
        "amount_micro": 1_000_000,
        "evidence_hash": EVIDENCE.evidence_hash,
        "failed_probes": 3,
        "probe_window_s": 400,
        "deadline_unix_s": reported().votes_until_unix_s,
    }
    return Breach(**(values | changes))


def signature(number: int) -> str:
    return f"{number:0130x}"


def vote(number: int, **changes: Any) -> VoteCast:
    """Attestor `number` (from 1) says that there is a breach."""
    values: dict[str, Any] = {
        "attestor": ATTESTORS[number - 1],
        "verdict": "breach",
        "evidence_hash": EVIDENCE.evidence_hash,
        "breach": breach(),
        "reason": "",
        "signature": signature(number),
    }
    return VoteCast(**(values | changes))


def dissent(number: int, reason: str = "answered_me") -> VoteCast:
    return vote(number, verdict="dissent", breach=None, reason=reason)


def probed(number: int, statement: int = 0) -> slash.Probed:
    return slash.Probed(ATTESTORS[number - 1], digest(statement or 50 + number), 300)


def claimed(block: int = 20, **changes: Any) -> claim.ClaimOpened:
    values: dict[str, Any] = {"claim_id": 1, "amount_micro": 900_000, "executable_at_unix_s": 1_700_001_000}
    values["at"] = ref(block)
    return claim.ClaimOpened(**(values | changes))


def disputed(block: int = 21) -> claim.Disputed:
    return claim.Disputed(1, 10_000_000, 1_700_009_000, ref(block))


def executed(block: int = 25) -> claim.Executed:
    return claim.Executed(1, "0x" + "0a" * 20, 600_000, 300_000, ref(block))
