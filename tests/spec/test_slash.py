"""What the decider of breaches decides: who may say what, when a quorum stands, what the chain adds."""

from itertools import permutations
from typing import Any

import pytest

from events import claim, slash
from events import slash_refusals as refusals
from events.ids import slash_id_of
from events.slash import slash as decider
from tests.aggregates import digest, ulid
from tests.money import ref
from tests.slashing import (
    AT_MS,
    ATTESTORS,
    EVIDENCE,
    OPERATOR,
    breach,
    claimed,
    disputed,
    dissent,
    executed,
    probed,
    reported,
    signature,
    vote,
)
from tests.spec.scenario import given

CASE = reported()
PROVEN = (CASE, EVIDENCE)
IN_TIME = AT_MS + 1000
QUORUM = slash.QuorumReached(breach(), (signature(1), signature(2), signature(3)), ATTESTORS[:3])
VOTED = (*PROVEN, vote(1), vote(2), vote(3), QUORUM)


def cast(said: Any, at_unix_ms: int = IN_TIME) -> slash.CastVote:
    return slash.CastVote(said, at_unix_ms)


def after(*events: Any) -> slash.Slash:
    state = decider.fold(events)
    assert isinstance(state, slash.Slash)
    return state


def test_a_breach_is_reported_once() -> None:
    given(decider).when(slash.Report(CASE)).then(CASE)
    given(decider, CASE).when(slash.Report(reported(reporter="another"))).nothing()
    given(decider).when(cast(vote(1))).refused(refusals.SlashUnknown)


def test_session_operator_and_kind_name_the_one_claim() -> None:
    one = slash_id_of(ulid(1), OPERATOR, "stall")
    assert one == slash_id_of(ulid(1), OPERATOR.upper().replace("0X", "0x"), "stall")
    others = {slash_id_of(ulid(2), OPERATOR, "stall"), slash_id_of(ulid(1), OPERATOR, "no_show")}
    assert len({one, slash_id_of(ulid(1), ATTESTORS[0], "stall"), *others}) == 4


@pytest.mark.parametrize(
    "changes",
    [
        {"quorum": 2},
        {"quorum": 6},
        {"quorum": 0},
        {"least_probes": 0},
        {"longest_probe_window_s": 0},
        {"attestors": (*ATTESTORS[:4], ATTESTORS[0])},
    ],
)
def test_terms_that_no_contract_can_have_are_refused(changes: dict[str, Any]) -> None:
    given(decider).when(slash.Report(reported(**changes))).refused(refusals.SlashTermsInvalid)


def test_an_attestor_states_its_probes_once() -> None:
    given(decider, CASE).when(slash.AddProbes(probed(1))).then(probed(1))
    given(decider, CASE, probed(1)).when(slash.AddProbes(probed(1))).nothing()
    given(decider, CASE, probed(1)).when(slash.AddProbes(probed(1, 99))).refused(refusals.AlreadySaid)
    given(decider, *PROVEN).when(slash.AddProbes(probed(1))).nothing()
    stranger = slash.Probed("0x" + "99" * 20, digest(1), 3)
    given(decider, CASE).when(slash.AddProbes(stranger)).refused(refusals.NotAttestor)


def test_the_first_evidence_is_the_only_one() -> None:
    given(decider, CASE).when(slash.AddEvidence(EVIDENCE)).then(EVIDENCE)
    given(decider, *PROVEN).when(slash.AddEvidence(EVIDENCE)).nothing()
    other = slash.EvidenceAdded(digest(2), 700)
    given(decider, *PROVEN).when(slash.AddEvidence(other)).refused(refusals.EvidenceDiffers)


@pytest.mark.parametrize("order", list(permutations((1, 2, 3))))
def test_three_of_five_are_a_quorum_and_their_votes_stand_in_the_contracts_order(
    order: tuple[int, int, int],
) -> None:
    first, second, third = order
    two = given(decider, *PROVEN, vote(first)).when(cast(vote(second))).then(vote(second))
    assert two.stage == "proven"
    state = given(decider, *PROVEN, vote(first), vote(second)).when(cast(vote(third)))
    assert state.then(vote(third), QUORUM).stage == "voted"


def test_nobody_votes_twice_or_on_itself_or_unasked() -> None:
    given(decider, *PROVEN, vote(1)).when(cast(vote(1))).nothing()
    given(decider, *PROVEN, vote(1)).when(cast(dissent(1))).refused(refusals.AlreadySaid)
    stranger = vote(1, attestor="0x" + "99" * 20)
    given(decider, *PROVEN).when(cast(stranger)).refused(refusals.NotAttestor)
    accused = reported(operator=ATTESTORS[0])
    given(decider, accused, EVIDENCE).when(cast(vote(1))).refused(refusals.AccusedCannotVote)
    given(decider, CASE).when(cast(vote(1))).refused(refusals.EvidenceMissing)


def test_a_vote_counts_for_exactly_this_evidence_and_this_breach() -> None:
    other = vote(1, evidence_hash=digest(2), breach=breach(evidence_hash=digest(2)))
    given(decider, *PROVEN).when(cast(other)).refused(refusals.EvidenceDiffers)
    for changes in (
        {"session": "0x" + "11" * 20},
        {"operator": ATTESTORS[1]},
        {"kind": "no_show"},
        {"amount_micro": 1_000_001},
        {"deadline_unix_s": 5},
        {"evidence_hash": digest(2)},
    ):
        given(decider, *PROVEN).when(cast(vote(1, breach=breach(**changes)))).refused(refusals.BreachDiffers)
    given(decider, *PROVEN).when(cast(vote(1, breach=None))).refused(refusals.BreachDiffers)


def test_votes_that_differ_in_one_byte_are_not_of_one_quorum() -> None:
    odd = vote(3, breach=breach(failed_probes=4))
    state = given(decider, *PROVEN, vote(1), vote(2)).when(cast(odd)).then(odd)
    assert state.quorum is None
    given(decider, *PROVEN, vote(1), vote(2), odd).when(cast(vote(4))).then(
        vote(4),
        slash.QuorumReached(
            breach(),
            (signature(1), signature(2), signature(4)),
            (ATTESTORS[0], ATTESTORS[1], ATTESTORS[3]),
        ),
    )


def test_dissent_is_recorded_and_enough_of_it_ends_the_matter() -> None:
    given(decider, *PROVEN).when(cast(dissent(1))).then(dissent(1))
    two = (*PROVEN, dissent(1), vote(2), dissent(3))
    given(decider, *two).when(cast(dissent(4))).then(dissent(4), slash.ReportRejected("dissented"))
    rejected = (*two, dissent(4), slash.ReportRejected("dissented"))
    given(decider, *rejected).when(cast(vote(5))).refused(refusals.VotesClosed)
    given(decider, *VOTED).when(cast(dissent(4))).then(dissent(4))


def test_late_votes_do_not_count() -> None:
    late = (CASE.votes_until_unix_s + 1) * 1000
    given(decider, *PROVEN, vote(1), vote(2)).when(cast(vote(3), late)).refused(refusals.VotesClosed)
    given(decider, *PROVEN).when(slash.Expire(late)).then(slash.ReportRejected("votes_expired"))
    given(decider, *PROVEN).when(slash.Expire(late - 1000)).nothing()
    given(decider, *VOTED).when(slash.Expire(late)).nothing()


def test_what_is_due_follows_quorum_chain_and_time() -> None:
    assert after(*PROVEN).due(0) is None
    assert after(*VOTED).due(breach().deadline_unix_s) == "claim"
    assert after(*VOTED).due(breach().deadline_unix_s + 1) is None
    opened = (*VOTED, claimed())
    assert after(*opened).due(claimed().executable_at_unix_s - 1) is None
    assert after(*opened).due(claimed().executable_at_unix_s) == "execute"
    assert after(*opened, disputed()).due(claimed().executable_at_unix_s) is None
    assert after(*opened, executed()).due(claimed().executable_at_unix_s) is None


def test_a_fact_is_taken_once_and_only_of_the_claim_that_was_opened() -> None:
    given(decider, *VOTED).when(slash.Observe(claimed())).then(claimed())
    given(decider, *VOTED, claimed()).when(slash.Observe(claimed())).nothing()
    given(decider, CASE).when(slash.Observe(claimed())).then(claimed())
    given(decider, *VOTED).when(slash.Observe(executed())).refused(refusals.SlashFactInconsistent)
    second = claimed(22, claim_id=2)
    given(decider, *VOTED, claimed()).when(slash.Observe(second)).refused(refusals.SlashFactInconsistent)
    given(decider, *VOTED, claimed()).when(slash.Observe(executed(3))).refused(refusals.SlashFactInconsistent)


def test_facts_stand_in_the_chains_order_and_a_reorg_takes_them_back() -> None:
    told = (*VOTED, claimed(), disputed())
    assert after(*told).stage == "disputed"
    upheld = claim.Upheld(1, True, ref(24))
    assert after(*told, executed(), upheld).stage == "executed"
    gone = claim.Reverted("executed", 600_000, 300_000, ref(25))
    state = given(decider, *told, upheld, executed()).when(slash.Revert(ref(25))).then(gone)
    assert state.stage == "upheld"
    given(decider, *told).when(slash.Revert(ref(99))).nothing()
    back = claim.Reverted("claim_opened", 0, 0, ref(20))
    assert given(decider, *VOTED, claimed()).when(slash.Revert(ref(20))).then(back).stage == "voted"
