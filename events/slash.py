"""A breach of one operator in one session: reported, proven, voted on, and what the chain made of it.

Its id follows from session, operator and kind, so there is one claim for each. Chain facts are folded in the
chain's order. Knows nothing of signatures (verified before), of evidence bodies or of how a node is probed.
"""

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Literal, assert_never

import msgspec

from events.breach import Breach, Kind, Micro, VoteCast
from events.chain import ChainRef
from events.claim import (
    Cancelled,
    ClaimOpened,
    Disputed,
    Executed,
    Fact,
    Reverted,
    Upheld,
    name_of,
    taken_back,
)
from events.kernel import Address, Decider, Event, Hash, Ulid
from events.seat import Seat
from events.slash_refusals import (
    AccusedCannotVote,
    AlreadySaid,
    BreachDiffers,
    EvidenceDiffers,
    EvidenceMissing,
    NotAttestor,
    SlashFactInconsistent,
    SlashTermsInvalid,
    SlashUnknown,
    VotesClosed,
)

SEATED: tuple[Kind, ...] = ("wrong_output", "meter_fraud")
"""Kinds whose case says what the accused had to compute."""
VOTING_S = 3_600
"""So long after the probes' window votes count, on the chain too."""


class Reported(Event, frozen=True, tag="slash.reported.v1"):
    """The case: `operator` of `node_id` is said to have failed the session paid through `escrow`.

    `attestors` to `longest_probe_window_s` are `coalition`'s terms; `receipt_key` signs the node's answers.
    `reporter`: a policy, or whoever reported.
    """

    session_id: Ulid
    pool_id: Ulid
    node_id: Ulid
    operator: Address
    receipt_key: Address
    kind: Kind
    chain_id: int
    escrow: Address
    coalition: Address
    attestors: tuple[Address, ...]
    quorum: int
    most_micro: Micro
    least_probes: int
    longest_probe_window_s: int
    reporter: str
    at_unix_ms: int
    deterministic: bool = False
    """The coalition's word that equal inputs give equal outputs, so that unequal receipts prove a lie."""
    seat: Seat | None = None
    """For kinds that are judged by receipts of one plan (`SEATED`)."""

    @property
    def votes_until_unix_s(self) -> int:
        return self.at_unix_ms // 1000 + self.longest_probe_window_s + VOTING_S


class Probed(Event, frozen=True, tag="slash.probed.v1"):
    """An attestor's signed statement on its probes; the body is a blob with this hash."""

    attestor: Address
    statement_hash: Hash
    size: int


class EvidenceAdded(Event, frozen=True, tag="slash.evidence_added.v1"):
    """The canonical evidence, by its SHA-256; `size` bytes. The first one is the only one."""

    evidence_hash: Hash
    size: int


class QuorumReached(Event, frozen=True, tag="slash.quorum_reached.v1"):
    """Enough attestors signed the same breach: anyone may open the claim on the chain with it.

    `votes`: their signatures, in ascending order of `attestors`, as the contract wants them.
    """

    breach: Breach
    votes: tuple[str, ...]
    attestors: tuple[Address, ...]


class ReportRejected(Event, frozen=True, tag="slash.rejected.v1"):
    """No quorum any more: time is over (`votes_expired`), or too many dissent (`dissented`)."""

    code: Literal["votes_expired", "dissented"]


SlashEvent = (
    Reported | Probed | EvidenceAdded | VoteCast | QuorumReached | ReportRejected
    | ClaimOpened | Disputed | Upheld | Executed | Cancelled | Reverted
)  # fmt: skip


class Report(msgspec.Struct, frozen=True, tag=True):
    reported: Reported


class AddProbes(msgspec.Struct, frozen=True, tag=True):
    """The statement's signature is verified."""

    probed: Probed


class AddEvidence(msgspec.Struct, frozen=True, tag=True):
    """The body is stored, and somebody could judge it."""

    added: EvidenceAdded


class CastVote(msgspec.Struct, frozen=True, tag=True):
    """The vote's signature is verified."""

    vote: VoteCast
    at_unix_ms: int


class Expire(msgspec.Struct, frozen=True):
    at_unix_ms: int


class Observe(msgspec.Struct, frozen=True):
    """An entry of the coalition's log, after the configured confirmations."""

    fact: Fact


class Revert(msgspec.Struct, frozen=True):
    """The chain no longer has this entry."""

    at: ChainRef


SlashCommand = Report | AddProbes | AddEvidence | CastVote | Expire | Observe | Revert
Stage = Literal[
    "reported", "proven", "voted", "rejected", "claimed", "disputed", "upheld", "executed", "cancelled"
]


@dataclass(frozen=True)
class Absent:
    pass


@dataclass(frozen=True)
class Slash:
    """`seen` stands in the chain's order; `said`: attestor (lower case) -> hash of its probe statement."""

    report: Reported
    said: dict[str, str] = field(default_factory=dict)
    evidence: EvidenceAdded | None = None
    votes: tuple[VoteCast, ...] = ()
    quorum: QuorumReached | None = None
    rejected: str | None = None
    seen: tuple[Fact, ...] = ()

    @property
    def claim(self) -> ClaimOpened | None:
        return next((fact for fact in self.seen if isinstance(fact, ClaimOpened)), None)

    @property
    def stage(self) -> Stage:
        """The chain's last word; without one, how far the votes are."""
        if self.seen:
            last = name_of(self.seen[-1])
            return "claimed" if last == "claim_opened" else last
        if self.quorum is not None:
            return "voted"
        if self.rejected is not None:
            return "rejected"
        return "proven" if self.evidence is not None else "reported"

    @property
    def over(self) -> bool:
        return self.stage in ("rejected", "executed", "cancelled")

    def due(self, now_unix_s: int) -> Literal["claim", "execute"] | None:
        """What anyone may send to the chain now. A dispute freezes until there is a ruling."""
        if self.quorum is not None and self.stage == "voted":
            return "claim" if now_unix_s <= self.quorum.breach.deadline_unix_s else None
        if self.claim is not None and self.stage == "claimed":
            return "execute" if now_unix_s >= self.claim.executable_at_unix_s else None
        return None


SlashState = Absent | Slash


def decide(command: SlashCommand, state: SlashState) -> tuple[SlashEvent, ...]:
    """Raises what `events.slash_refusals` lists."""
    if isinstance(command, Report):
        if isinstance(state, Slash):
            return ()
        _check_terms(command.reported)
        return (command.reported,)
    if isinstance(state, Absent):
        raise SlashUnknown
    match command:
        case AddProbes(probed):
            return _add_probes(probed, state)
        case AddEvidence(added):
            if state.evidence is None and not state.over:
                return (added,)
            if state.evidence == added:
                return ()
            raise EvidenceDiffers if state.evidence is not None else VotesClosed
        case CastVote(vote, at_unix_ms):
            return _cast(vote, at_unix_ms, state)
        case Expire(at_unix_ms):
            waiting = state.stage in ("reported", "proven")
            late = at_unix_ms // 1000 > state.report.votes_until_unix_s
            return (ReportRejected("votes_expired"),) if waiting and late else ()
        case Observe(fact):
            _check_fact(fact, state)
            known = any(seen.at.key == fact.at.key for seen in state.seen)
            return () if known else (fact,)
        case Revert(at):
            return tuple(taken_back(seen) for seen in state.seen if seen.at.key == at.key)
        case _:
            assert_never(command)


def _check_terms(case: Reported) -> None:
    attestors = {attestor.lower() for attestor in case.attestors}
    counts = (case.least_probes, case.longest_probe_window_s, case.chain_id, case.at_unix_ms)
    majority = len(attestors) < 2 * case.quorum <= 2 * len(attestors)
    seated = (case.seat is not None) == (case.kind in SEATED)
    if len(attestors) != len(case.attestors) or not majority or min(counts) < 1 or not seated:
        raise SlashTermsInvalid


def _add_probes(probed: Probed, state: Slash) -> tuple[SlashEvent, ...]:
    _check_attestor(probed.attestor, state)
    said = state.said.get(probed.attestor.lower())
    if said == probed.statement_hash:
        return ()
    if said is not None:
        raise AlreadySaid
    if state.over:
        raise VotesClosed
    return (probed,) if state.evidence is None else ()


def _check_attestor(attestor: str, state: Slash) -> None:
    if attestor.lower() == state.report.operator.lower():
        raise AccusedCannotVote
    if attestor.lower() not in {known.lower() for known in state.report.attestors}:
        raise NotAttestor


def _cast(vote: VoteCast, at_unix_ms: int, state: Slash) -> tuple[SlashEvent, ...]:
    _check_attestor(vote.attestor, state)
    if state.evidence is None:
        raise EvidenceMissing
    before = [cast for cast in state.votes if cast.attestor.lower() == vote.attestor.lower()]
    if before:
        if before[0] == vote:
            return ()
        raise AlreadySaid
    if state.rejected is not None or at_unix_ms // 1000 > state.report.votes_until_unix_s:
        raise VotesClosed
    if vote.evidence_hash != state.evidence.evidence_hash:
        raise EvidenceDiffers
    _check_breach(vote, state.report)
    votes = (*state.votes, vote)
    if state.quorum is not None:
        return (vote,)
    reached = _quorum(votes, state.report)
    if reached is not None:
        return vote, reached
    return (vote, ReportRejected("dissented")) if _hopeless(votes, state.report) else (vote,)


def _check_breach(vote: VoteCast, case: Reported) -> None:
    breach = vote.breach
    if breach is None:
        if vote.verdict == "breach":
            raise BreachDiffers
        return
    same = (
        vote.verdict == "breach"
        and (breach.session.lower(), breach.operator.lower()) == (case.escrow.lower(), case.operator.lower())
        and (breach.kind, breach.evidence_hash) == (case.kind, vote.evidence_hash)
        and breach.amount_micro <= case.most_micro
        and breach.deadline_unix_s == case.votes_until_unix_s
    )
    if not same:
        raise BreachDiffers


def _quorum(votes: tuple[VoteCast, ...], case: Reported) -> QuorumReached | None:
    """The breach that a quorum signed byte for byte, if there is one."""
    counts = Counter(vote.breach for vote in votes if vote.breach is not None)
    for breach, count in counts.items():
        if count >= case.quorum:
            signed = sorted(
                (int(vote.attestor, 16), vote.attestor, vote.signature)
                for vote in votes
                if vote.breach == breach
            )
            signatures = tuple(signature for _, _, signature in signed)
            return QuorumReached(breach, signatures, tuple(attestor for _, attestor, _ in signed))
    return None


def _hopeless(votes: tuple[VoteCast, ...], case: Reported) -> bool:
    """Even if all the others said the same, no breach would have a quorum."""
    counts = Counter(vote.breach for vote in votes if vote.breach is not None)
    accused = sum(attestor.lower() == case.operator.lower() for attestor in case.attestors)
    silent = len(case.attestors) - accused - len(votes)
    return max(counts.values(), default=0) + silent < case.quorum


def _check_fact(fact: Fact, state: Slash) -> None:
    """A dispute, ruling or payment is of the claim that the chain opened before it."""
    claim = state.claim
    if isinstance(fact, ClaimOpened):
        if claim is not None and claim.claim_id != fact.claim_id:
            raise SlashFactInconsistent(f"claim {fact.claim_id} beside {claim.claim_id}")
    elif claim is None or claim.claim_id != fact.claim_id or fact.at.order < claim.at.order:
        raise SlashFactInconsistent(f"{fact.__struct_config__.tag} of claim {fact.claim_id} at {fact.at.tx}")


def evolve(state: SlashState, event: SlashEvent) -> SlashState:
    if isinstance(event, Reported):
        return Slash(event)
    if isinstance(state, Absent):
        return state
    match event:
        case Probed(attestor, statement_hash):
            return replace(state, said={**state.said, attestor.lower(): statement_hash})
        case EvidenceAdded():
            return replace(state, evidence=event)
        case VoteCast():
            return replace(state, votes=(*state.votes, event))
        case QuorumReached():
            return replace(state, quorum=event)
        case ReportRejected(code):
            return replace(state, rejected=code)
        case ClaimOpened() | Disputed() | Upheld() | Executed() | Cancelled():
            in_order = sorted((*state.seen, event), key=lambda fact: fact.at.order)
            return replace(state, seen=tuple(in_order))
        case Reverted(_, _, _, at):
            return replace(state, seen=tuple(fact for fact in state.seen if fact.at.key != at.key))
        case _:
            assert_never(event)


slash: Decider[SlashState, SlashCommand, SlashEvent] = Decider(Absent(), decide, evolve)
