"""Bonds and slashes: what a coalition's chain log comes to, against token, contract and event log.

For every coalition that the log names: bonds put in = held + withdrawn + slashed, and each slash is what a
claim allowed, went to that session's payer (at most what it had paid) and elsewhere, and stands in the log as
it happened. Knows no connection; what pays is imported nowhere.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from events import pool, slash
from events.breach import KINDS
from events.claim import Cancelled, ClaimOpened, Disputed, Executed, Fact, Reverted, Upheld
from events.envelope import Recorded
from events.shares import WEI_PER_MICRO
from services.auditor.chain_log import Entry, Raw, decoded
from services.auditor.money_chain import EscrowStory

Ref = tuple[str, int, str]
ELSEWHERE = ""
"""Whoever is not named by an entry: the treasury."""


class BondFinding(NamedTuple):
    """`subject`: an escrow's address, or a coalition's when no session is concerned."""

    subject: str
    code: str
    detail: str
    micro: int = 0


@dataclass
class ClaimStory:
    """One claim; `steps`: what happened to it, in order, as (reference, what, numbers)."""

    number: int
    escrow: str
    operator: str
    kind: str
    amount: int
    evidence_hash: str
    steps: list[tuple[Ref, str, tuple[object, ...]]] = field(default_factory=list)


@dataclass
class BondStory:
    """One coalition. Amounts are micro-USDC, by operator."""

    address: str
    bonded: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    withdrawn: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    slashed: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    claims: dict[int, ClaimStory] = field(default_factory=dict)
    findings: list[BondFinding] = field(default_factory=list)

    def held(self, operator: str) -> int:
        return self.bonded[operator] - self.withdrawn[operator] - self.slashed[operator]

    @property
    def operators(self) -> list[str]:
        return sorted(self.bonded)

    @property
    def held_micro(self) -> int:
        return sum(self.held(operator) for operator in self.operators)


class Moved(NamedTuple):
    """USDC that came to and left a coalition in one transaction."""

    came: int
    left: dict[str, int]


def stories(entries: Iterable[Raw], usdc: str, coalitions: set[str]) -> dict[str, BondStory]:
    """Of these coalitions (lower case). Raises ChainLogUnreadable."""
    found = {address: BondStory(address) for address in coalitions}
    known = list(decoded(entries))
    moved = _moved(known, usdc.lower(), coalitions)
    promised: defaultdict[tuple[str, str], Moved] = defaultdict(lambda: Moved(0, defaultdict(int)))
    for entry in known:
        if entry.address in found:
            _take(found[entry.address], entry, promised)
    for (address, tx), wanted in promised.items():
        there = moved.get((address, tx), Moved(0, {}))
        if there.came < wanted.came:
            short = wanted.came - there.came
            found[address].findings.append(
                BondFinding(address, "bond_unpaid", f"bonds of {tx} did not arrive", short)
            )
        gone = {**there.left, ELSEWHERE: sum(there.left.values())}
        asked = {**wanted.left, ELSEWHERE: sum(wanted.left.values())}
        for account, micro in asked.items():
            gap = micro - gone.get(account, 0)
            if gap > 0:
                detail = f"{account or 'all'} got {micro - gap} of {micro} in {tx}"
                found[address].findings.append(BondFinding(address, "payout", detail, gap))
    return found


def _moved(entries: list[Entry], usdc: str, coalitions: set[str]) -> dict[tuple[str, str], Moved]:
    came: defaultdict[tuple[str, str], int] = defaultdict(int)
    left: defaultdict[tuple[str, str], defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    for entry in entries:
        if entry.name != "Transfer" or entry.address != usdc:
            continue
        tx = entry.raw.tx.lower()
        if entry.text("target") in coalitions:
            came[entry.text("target"), tx] += entry.number("value")
        if entry.text("source") in coalitions:
            left[entry.text("source"), tx][entry.text("target")] += entry.number("value")
    return {key: Moved(came[key], dict(left[key])) for key in came.keys() | left.keys()}


def _take(story: BondStory, entry: Entry, promised: defaultdict[tuple[str, str], Moved]) -> None:
    key = (story.address, entry.raw.tx.lower())
    match entry.name:
        case "Bonded":
            operator = entry.text("operator")
            story.bonded[operator] += entry.number("amount")
            promised[key] = promised[key]._replace(came=promised[key].came + entry.number("amount"))
            _total(story, operator, entry)
        case "BondWithdrawn":
            operator = entry.text("operator")
            story.withdrawn[operator] += entry.number("amount")
            promised[key].left[operator] += entry.number("amount")
        case "ClaimOpened":
            number = entry.number("claim_id")
            kind = KINDS[entry.number("kind")]
            place = (entry.text("session"), entry.text("operator"), kind)
            made = ClaimStory(number, *place, entry.number("amount"), entry.text("evidence_hash"))
            numbers = (entry.number("amount"), entry.number("executable_at"))
            made.steps.append((entry.ref, "claim_opened", numbers))
            story.claims[number] = made
        case "Disputed":
            _step(story, entry, "disputed", entry.number("counter_bond"), entry.number("rule_by"))
        case "Ruled":
            _step(story, entry, "upheld", bool(entry.number("upheld")))
        case "ClaimCancelled":
            _step(story, entry, "cancelled")
        case "Slashed":
            _slashed(story, entry, promised)
        case "PaymentHeld":
            promised[key].left[entry.text("to")] -= entry.number("amount")
        case _:
            pass


def _total(story: BondStory, operator: str, entry: Entry) -> None:
    if entry.number("total") != story.held(operator):
        gap = entry.number("total") - story.held(operator)
        detail = (
            f"{operator} holds {entry.number('total')} by the contract, {story.held(operator)} recomputed"
        )
        story.findings.append(BondFinding(story.address, "bond_total", detail, gap))


def _step(story: BondStory, entry: Entry, what: str, *numbers: object) -> None:
    claim = story.claims.get(entry.number("claim_id"))
    if claim is not None:
        claim.steps.append((entry.ref, what, numbers))


def _slashed(story: BondStory, entry: Entry, promised: defaultdict[tuple[str, str], Moved]) -> None:
    payer, operator = entry.text("payer"), entry.text("operator")
    to_payer, rest = entry.number("to_payer"), entry.number("to_treasury")
    _step(story, entry, "executed", payer, to_payer, rest)
    story.slashed[operator] += to_payer + rest
    left = promised[story.address, entry.raw.tx.lower()].left
    left[payer] += to_payer
    left[ELSEWHERE] += rest
    claim = story.claims.get(entry.number("claim_id"))
    if claim is None:
        story.findings.append(
            BondFinding(story.address, "slash_unclaimed", f"a slash without a claim in {entry.raw.tx}")
        )
        return
    lost = sum(int(str(step[2][0])) for step in claim.steps if step[1] == "disputed")
    if operator != claim.operator or to_payer + rest != claim.amount + lost:
        detail = f"{to_payer + rest} slashed, {claim.amount + lost} claimed"
        story.findings.append(
            BondFinding(claim.escrow, "slash_amount", detail, to_payer + rest - claim.amount - lost)
        )


class BondAudit:
    """Takes the log's events in order, then the chain's evidence."""

    def __init__(self) -> None:
        self.coalitions: set[str] = set()
        self._reports: dict[str, slash.Reported] = {}
        self._evidence: dict[str, str] = {}
        self._facts: defaultdict[str, dict[str, Fact]] = defaultdict(dict)

    def take(self, recorded: Recorded) -> None:
        key = recorded.aggregate_id
        match recorded.event:
            case pool.CoalitionOpened(coalition):
                self.coalitions.add(coalition.lower())
            case slash.Reported() as case:
                self._reports[key] = case
            case slash.QuorumReached(breach):
                self._evidence[key] = breach.evidence_hash
            case ClaimOpened() | Disputed() | Upheld() | Executed() | Cancelled() as fact:
                self._facts[key][fact.at.key] = fact
            case Reverted(_, _, _, at):
                self._facts[key].pop(at.key, None)
            case _:
                pass

    def payouts(self) -> Iterator[tuple[str, int, int]]:
        """(slash, to the payer, elsewhere) in micro-USDC, as the log has them."""
        for key, facts in self._facts.items():
            for fact in facts.values():
                if isinstance(fact, Executed):
                    yield key, fact.to_payer_micro, fact.to_treasury_micro

    def findings(
        self,
        chain: Mapping[str, BondStory],
        escrows: Mapping[str, EscrowStory],
        bonds: Mapping[str, int],
        balances: Mapping[str, int],
    ) -> Iterator[BondFinding]:
        """`bonds`: "coalition/operator" -> micro-USDC by the contract's view; `balances`: of its USDC."""
        for address, story in sorted(chain.items()):
            yield from story.findings
            for operator in story.operators:
                said = bonds.get(f"{address}/{operator}", 0)
                if said != story.held(operator):
                    detail = f"{operator} has {said} by the contract, {story.held(operator)} recomputed"
                    yield BondFinding(address, "bond", detail, said - story.held(operator))
            short = story.held_micro - balances.get(address, 0)
            if short > 0:
                yield BondFinding(address, "bonds_short", "it holds less USDC than the bonds come to", short)
            yield from _beyond_paid(story, escrows)
            yield from self._claims(story)
        told = {(case.coalition.lower(), case.escrow.lower()) for case in self._reports.values()}
        for coalition, escrow in sorted(told):
            if coalition not in chain:
                yield BondFinding(escrow, "coalition_unknown", f"the log never opened {coalition}")

    def _claims(self, story: BondStory) -> Iterator[BondFinding]:
        """Each claim against the log's history of the same breach."""
        cases: dict[tuple[str, str, str], str] = {
            (case.escrow.lower(), case.operator.lower(), case.kind): key
            for key, case in self._reports.items()
            if case.coalition.lower() == story.address
        }
        for claim in story.claims.values():
            key = cases.pop((claim.escrow, claim.operator, claim.kind), None)
            if key is None:
                yield BondFinding(claim.escrow, "claim_unreported", f"claim {claim.number} is not in the log")
                continue
            if self._evidence.get(key) != claim.evidence_hash and not _proved_itself(claim):
                yield BondFinding(claim.escrow, "evidence", f"claim {claim.number} is on other evidence")
            yield from _compare(claim, list(self._facts[key].values()))
        for (escrow, _, _), key in cases.items():
            for fact in self._facts[key].values():
                yield BondFinding(escrow, "claim_unknown", f"the chain has no claim at {fact.at.tx}")


def _proved_itself(claim: ClaimStory) -> bool:
    """Two receipts proved it to the contract, and nobody voted: what votes open is never executed in the
    same transaction, for there must be time for a dispute.
    """
    opened = claim.steps[0][0][0]
    same = any(ref[0] == opened for ref, what, _ in claim.steps if what == "executed")
    return claim.kind == "equivocation" and same


def _beyond_paid(story: BondStory, escrows: Mapping[str, EscrowStory]) -> Iterator[BondFinding]:
    """What went to payers is theirs, and at most what they had paid."""
    repaid: defaultdict[str, int] = defaultdict(int)
    for claim in story.claims.values():
        for _, what, numbers in claim.steps:
            if what != "executed":
                continue
            payer, to_payer = str(numbers[0]), int(str(numbers[1]))
            repaid[claim.escrow] += to_payer
            session = escrows.get(claim.escrow)
            if session is None or session.payer != payer:
                yield BondFinding(claim.escrow, "payee", f"{payer} is not the payer of its session", to_payer)
            elif repaid[claim.escrow] > session.spent_wei // WEI_PER_MICRO:
                over = repaid[claim.escrow] - session.spent_wei // WEI_PER_MICRO
                yield BondFinding(claim.escrow, "payee", f"{payer} got more than it had paid", over)


def _compare(claim: ClaimStory, facts: list[Fact]) -> Iterator[BondFinding]:
    told = {(fact.at.tx.lower(), fact.at.log_index, fact.at.block_hash.lower()): fact for fact in facts}
    for ref, what, numbers in claim.steps:
        fact = told.pop(ref, None)
        if fact is None:
            yield BondFinding(claim.escrow, "claim_fact_missing", f"the log misses {what} in {ref[0]}")
            continue
        said = _numbers(fact)
        if (said[0], tuple(said[1])) != (what, numbers):
            gap = _micro(said[1]) - _micro(numbers)
            detail = f"{said[0]} {said[1]} in the log, {what} {numbers} on the chain, in {ref[0]}"
            yield BondFinding(claim.escrow, "claim_fact", detail, gap)
    for fact in told.values():
        yield BondFinding(claim.escrow, "claim_unknown", f"the chain has nothing at {fact.at.tx}")


def _numbers(fact: Fact) -> tuple[str, tuple[object, ...]]:
    match fact:
        case ClaimOpened(_, amount_micro, executable_at_unix_s):
            return "claim_opened", (amount_micro, executable_at_unix_s)
        case Disputed(_, counter_bond_micro, rule_by_unix_s):
            return "disputed", (counter_bond_micro, rule_by_unix_s)
        case Upheld(_, upheld):
            return "upheld", (upheld,)
        case Executed(_, payer, to_payer_micro, to_treasury_micro):
            return "executed", (payer.lower(), to_payer_micro, to_treasury_micro)
        case Cancelled():
            return "cancelled", ()


def _micro(numbers: tuple[object, ...]) -> int:
    return sum(value for value in numbers if isinstance(value, int) and not isinstance(value, bool))
