"""Who is in a pool's next plan, and who is left out of it: operators whom the coalition has evicted."""

import pytest
from msgspec.structs import replace

from events import claim, node, pool, seating
from events.policies import Do
from tests.aggregates import registered, ulid
from tests.money import ref
from tests.slashing import BREACH_TERMS, COALITION, reported
from tests.spec.test_policies import POOL, Told
from tests.spec.test_succession import with_spares

MEASURED = node.CapabilitiesMeasured(100_000, 10.0, "cpu", "1")
SLASH = ulid(800)
OPENED = pool.CoalitionOpened(COALITION, 31337, 1, 1, "0x" + "1a" * 20, ref(7), BREACH_TERMS)
CLAIMED = claim.ClaimOpened(1, 1_000_000, 1_700_000_900, ref(9))


def evicted(number: int = 2, coalition: str = COALITION, **changes: str) -> Told:
    """Nodes 1 to 4 can serve; a claim was opened on the operator of `number`."""
    told = with_spares(*((number, MEASURED) for number in (1, 2)))
    told.tell("pool", POOL, replace(OPENED, coalition=coalition))
    operator = registered(number).payout_wallet
    told.tell("slash", SLASH, reported(pool_id=POOL, operator=operator, **changes), CLAIMED)
    return told


def seats(told: Told, *named: int) -> list[str]:
    plan = seating.plan_of(told.view, POOL, tuple(ulid(number) for number in named))
    return [shard.node_id for shard in plan.shards]


def test_a_plan_of_itself_seats_every_usable_member_but_an_evicted_operators() -> None:
    plan = seating.plan_of(evicted().view, POOL, ())
    assert {shard.node_id for shard in plan.shards} == {ulid(1), ulid(3), ulid(4)}
    assert f"{ulid(2)}: left out, for the coalition has evicted its operator" in plan.explanation
    assert "left out" not in seating.plan_of(with_spares((1, MEASURED)).view, POOL, ()).explanation


def test_all_nodes_of_an_evicted_operator_are_left_out() -> None:
    told = evicted()
    wallet = registered(2).payout_wallet
    told.tell("node", ulid(5), registered(5, payout_wallet=wallet.upper().replace("0X", "0x")), MEASURED)
    told.tell("pool", POOL, pool.MemberAccepted(ulid(5), "sig"))
    assert set(seats(told)) == {ulid(1), ulid(3), ulid(4)}


def test_whoever_names_an_evicted_operators_node_gets_it() -> None:
    """Only the chain knows whom the steward has readmitted; it refuses the others' seats."""
    told = evicted()
    assert seats(told, 2, 1) == [ulid(2), ulid(1)]


def test_another_coalitions_claim_evicts_nobody_here() -> None:
    assert ulid(2) in seats(evicted(coalition="0x" + "c1" * 20))


def test_a_claim_evicts_whatever_becomes_of_it_until_its_block_is_taken_back() -> None:
    told = evicted()
    told.tell("slash", SLASH, claim.Cancelled(1, ref(12)))
    assert ulid(2) not in seats(told)
    told.tell("slash", SLASH, claim.taken_back(CLAIMED))
    assert ulid(2) in seats(told)


@pytest.mark.parametrize("opened_first", [True, False])
def test_an_operator_with_a_seat_in_a_later_epoch_was_readmitted(opened_first: bool) -> None:
    """In the chain's order, whichever of the two the log heard first; an older epoch's seat says nothing."""
    told = with_spares(*((number, MEASURED) for number in (1, 2)))
    told.tell("pool", POOL, OPENED)
    case = reported(pool_id=POOL, operator=registered(2).payout_wallet)
    tellings = [
        ("slash", SLASH, (case, CLAIMED)),
        ("pool", POOL, (replace(OPENED, chain_epoch=2, at=ref(11)),)),
    ]
    for kind, key, events in tellings if not opened_first else tellings[::-1]:
        told.tell(kind, key, *events)
    assert ulid(2) in seats(told)
    told.tell("slash", ulid(801), case, replace(CLAIMED, claim_id=2, at=ref(12)))
    assert ulid(2) not in seats(told)


def test_when_everybody_is_evicted_the_refusal_says_so() -> None:
    told = evicted()
    for number in (1, 3, 4):
        case = reported(pool_id=POOL, operator=registered(number).payout_wallet)
        told.tell("slash", ulid(800 + number), case, CLAIMED)
    with pytest.raises(pool.NodeNotUsable, match="has evicted the operator of every usable node"):
        seats(told)


def test_an_evicted_operator_takes_over_from_nobody() -> None:
    told = evicted(3)
    (do,) = (one for one in told.tell("node", ulid(2), node.Drained("upgrade")) if isinstance(one, Do))
    assert (do.command.node_id, do.command.successor_id) == (ulid(2), ulid(4))
    told = evicted(3)
    told.tell("slash", ulid(801), reported(operator=registered(4).payout_wallet), CLAIMED)
    (do,) = (one for one in told.tell("node", ulid(2), node.Drained("upgrade")) if isinstance(one, Do))
    assert isinstance(do.command, pool.BlockDrain)
    assert f"{ulid(4)} is of an operator whom the coalition has evicted" in do.command.detail
