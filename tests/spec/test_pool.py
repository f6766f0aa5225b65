"""What a pool's decider decides."""

import msgspec
import pytest

from events import coalition, pool
from events.pool import pool as decider
from tests.aggregates import digest, proposed, shard, ulid
from tests.money import ref
from tests.slashing import BREACH_TERMS
from tests.spec.scenario import given

TERMS = proposed()
ONE, TWO, THREE = (pool.MemberAccepted(ulid(n), "sig") for n in (1, 2, 3))
SHARDS = (shard(1, 0, 5, 6250), shard(2, 5, 8, 3750))
PLAN = pool.Planned(1, SHARDS, "why")
READY = tuple(pool.ShardReady(1, ulid(n), 100) for n in (1, 2))
FORMED = (TERMS, ONE, TWO, PLAN)
SERVING: tuple[pool.PoolEvent, ...] = (*FORMED, *READY, pool.Activated(1))


def confirm(number: int, epoch: int = 1, weights: str = TERMS.weights_digest) -> pool.ConfirmShard:
    return pool.ConfirmShard(epoch, ulid(number), 100, weights)


REPLACE = pool.ReplaceShard(ulid(2), ulid(3), digest(3))
SUCCEEDED = pool.Planned(
    2, (SHARDS[0], shard(3, 5, 8, 3750)), f"{ulid(3)} takes the layers of {ulid(2)}, which is draining."
)
CHANGED = (
    *SERVING,
    THREE,
    SUCCEEDED,
    pool.ShardReady(2, ulid(1), 1),
    pool.ShardReady(2, ulid(3), 1),
    pool.EpochChanged(2),
)


def test_a_successor_takes_exactly_the_layers_and_units_of_a_leaver_once() -> None:
    given(decider, *SERVING, THREE).when(REPLACE).then(SUCCEEDED)
    given(decider, *SERVING, THREE, SUCCEEDED).when(REPLACE).nothing()
    given(decider, *CHANGED).when(REPLACE).nothing()
    given(decider, *FORMED, THREE).when(REPLACE).nothing()
    given(decider, *SERVING).when(REPLACE).refused(pool.MemberNotAccepted)


def test_a_successor_that_failed_to_load_may_be_replaced() -> None:
    failed = pool.ShardFailed(2, ulid(3), "out_of_memory")
    again = pool.Planned(3, SUCCEEDED.shards, SUCCEEDED.explanation)
    given(decider, *SERVING, THREE, SUCCEEDED, failed).when(REPLACE).then(again)


def test_a_blocked_drain_is_told_once_for_each_reason() -> None:
    blocked = pool.DrainBlocked(ulid(2), "no_successor", "nobody")
    command = pool.BlockDrain(ulid(2), "no_successor", "nobody")
    given(decider, *SERVING).when(command).then(blocked)
    given(decider, *SERVING, blocked).when(command).nothing()
    given(decider, *SERVING).when(pool.BlockDrain(ulid(3), "no_successor", "nobody")).nothing()


def test_a_leaver_is_replaced_once_when_it_says_that_it_has_left() -> None:
    left = pool.ReportDrained(1, ulid(2), 4, 1000)
    done = pool.ShardReplaced(1, ulid(2), ulid(3), 4, 1000)
    given(decider, *CHANGED).when(left).then(done)
    given(decider, *CHANGED, done).when(left).nothing()
    given(decider, *CHANGED).when(pool.ReportDrained(1, ulid(1), 0, 0)).nothing()
    given(decider, *SERVING).when(left).nothing()


def test_a_pool_is_proposed_once() -> None:
    given(decider).when(pool.Propose(TERMS)).then(TERMS)
    given(decider, TERMS).when(pool.Propose(TERMS)).nothing()
    given(decider, TERMS).when(pool.Propose(proposed(price_wei_per_s="5"))).refused(pool.PoolAlreadyProposed)


@pytest.mark.parametrize(
    "command", [pool.AcceptMember(ulid(1), "sig"), pool.AdoptPlan(SHARDS, ""), confirm(1), pool.Retire("x")]
)
def test_an_unknown_pool_can_do_nothing(command: pool.PoolCommand) -> None:
    given(decider).when(command).refused(pool.PoolUnknown)


def test_a_member_accepts_once() -> None:
    given(decider, TERMS).when(pool.AcceptMember(ulid(1), "sig")).then(ONE)
    given(decider, TERMS, ONE).when(pool.AcceptMember(ulid(1), "other sig")).nothing()


def test_a_plan_of_accepted_members_is_the_next_epoch() -> None:
    given(decider, TERMS, ONE, TWO).when(pool.AdoptPlan(SHARDS, "why")).then(PLAN)
    given(decider, *SERVING).when(pool.AdoptPlan(SHARDS, "again")).then(pool.Planned(2, SHARDS, "again"))


def test_a_plan_needs_every_member_s_consent() -> None:
    given(decider, TERMS, ONE).when(pool.AdoptPlan(SHARDS, "")).refused(pool.MemberNotAccepted)


@pytest.mark.parametrize(
    "shards",
    [
        (),
        (shard(1, 0, 8, 9999),),
        (shard(1, 0, 7, 10_000),),
        (shard(1, 0, 9, 10_000),),
        (shard(1, 1, 8, 10_000),),
        (shard(1, 0, 5, 5000), shard(2, 6, 8, 5000)),
        (shard(1, 0, 5, 5000), shard(2, 4, 8, 5000)),
        (shard(1, 0, 5, 5000), shard(1, 5, 8, 5000)),
        (shard(1, 0, 5, 10_001), shard(2, 5, 8, -1)),
        (shard(1, 0, 8, 5000), shard(2, 8, 8, 5000)),
        (shard(1, 0, 5, 10_000), shard(2, 5, 8, 0)),
    ],
    ids=[
        "empty",
        "units",
        "too short",
        "too long",
        "late start",
        "hole",
        "overlap",
        "twice",
        "negative",
        "no layer",
        "no share",
    ],
)
def test_a_plan_tiles_the_model_exactly(shards: tuple[pool.Shard, ...]) -> None:
    given(decider, TERMS, ONE, TWO).when(pool.AdoptPlan(shards, "")).refused(pool.PlanInvalid)


def test_the_last_shard_to_load_activates_the_pool() -> None:
    given(decider, *FORMED).when(confirm(1)).then(READY[0])
    state = given(decider, *FORMED, READY[0]).when(confirm(2)).then(READY[1], pool.Activated(1))
    assert state.serving == PLAN


def test_a_second_epoch_changes_over_when_it_is_loaded() -> None:
    later = pool.Planned(2, (shard(2, 0, 8, 10_000),), "one node left")
    state = (
        given(decider, *SERVING, later)
        .when(confirm(2, epoch=2))
        .then(pool.ShardReady(2, ulid(2), 100), pool.EpochChanged(2))
    )
    assert state.serving == later


def test_until_it_is_loaded_the_old_epoch_serves() -> None:
    state = decider.fold((*SERVING, pool.Planned(2, SHARDS, "")))
    assert isinstance(state, pool.Forming)
    assert state.serving == PLAN
    assert state.ready == frozenset()


def test_confirmations_that_do_not_matter_change_nothing() -> None:
    given(decider, TERMS, ONE, TWO).when(confirm(1)).nothing()
    given(decider, *FORMED).when(confirm(1, epoch=2)).nothing()
    given(decider, *FORMED).when(confirm(3)).nothing()
    given(decider, *FORMED, READY[0]).when(confirm(1)).nothing()


def test_other_weights_are_refused() -> None:
    given(decider, *FORMED).when(confirm(1, weights=digest(8))).refused(pool.WeightsDiffer)


def test_a_failure_is_recorded_once_and_healed_by_success() -> None:
    report = pool.ReportShardFailed(1, ulid(1), "out_of_memory")
    failed = pool.ShardFailed(1, ulid(1), "out_of_memory")
    given(decider, *FORMED).when(report).then(failed)
    given(decider, *FORMED, failed).when(report).nothing()
    given(decider, *FORMED).when(pool.ReportShardFailed(2, ulid(1), "x")).nothing()
    state = given(decider, *FORMED, failed).when(confirm(1)).then(READY[0])
    assert state.failed == frozenset()


def test_a_retired_pool_stays_retired() -> None:
    gone = pool.Retired("done")
    assert given(decider, *SERVING).when(pool.Retire("done")).then(gone) == pool.Closed(TERMS, PLAN)
    given(decider, *SERVING, gone).when(pool.Retire("done")).nothing()
    given(decider, *SERVING, gone).when(pool.AdoptPlan(SHARDS, "")).refused(pool.PoolRetired)


OPENED = pool.CoalitionOpened("0x" + "c0" * 20, 31337, 1, 1, "0x" + "1a" * 20, ref(7))
OPENED_LATE = msgspec.structs.replace(OPENED, epoch=2, chain_epoch=2)
NAMED_LATE = msgspec.structs.replace(OPENED_LATE, breach_terms=BREACH_TERMS)
PRICED = tuple(proposed(price_wei_per_s="5") if event is TERMS else event for event in CHANGED)


def test_a_priced_pool_learns_once_what_pays_the_operators_of_a_plan() -> None:
    """And may be told of a plan that is served as well as of one that is being loaded."""
    loading = PRICED[: PRICED.index(READY[0])]
    given(decider, *loading).when(pool.OpenCoalition(OPENED)).then(OPENED)
    given(decider, *loading, OPENED).when(pool.OpenCoalition(OPENED)).nothing()
    serving = PRICED[: PRICED.index(SUCCEEDED) + 1]
    given(decider, *serving).when(pool.OpenCoalition(OPENED)).then(OPENED)
    later = msgspec.structs.replace(OPENED, epoch=2, chain_epoch=2, gda_pool="0x" + "2b" * 20)
    state = given(decider, *PRICED, OPENED).when(pool.OpenCoalition(later)).then(later)
    assert isinstance(state, pool.Forming)
    assert state.openings.coalition == OPENED.coalition
    paid = [state.openings.gda_pool_of(epoch) for epoch in (1, 2, 3)]
    assert paid == [OPENED.gda_pool, later.gda_pool, None]
    assert [state.openings.chain_epoch_of(epoch) for epoch in (1, 2, 3)] == [1, 2, 2]
    assert coalition.Openings().chain_epoch_of(1) is None


ENDED = pool.CoalitionEnded(OPENED.coalition, 1, ref(8))
END = coalition.EndCoalition(ENDED)
REOPENED = msgspec.structs.replace(OPENED, epoch=2, chain_epoch=2, gda_pool="0x" + "2b" * 20)


def openings(state: pool.PoolState) -> coalition.Openings:
    assert isinstance(state, pool.Forming)
    return state.openings


def test_after_its_epoch_has_ended_a_pool_pays_nobody_until_another_opens() -> None:
    ended = openings(given(decider, *PRICED, OPENED).when(END).then(ENDED))
    assert (ended.over, ended.paying, ended.gda_pool_of(1)) == (True, None, None)
    assert (ended.coalition, ended.epoch_of(OPENED.gda_pool)) == (OPENED.coalition, 1)
    given(decider, *PRICED, OPENED, ENDED).when(END).nothing()
    reopening = given(decider, *PRICED, OPENED, ENDED).when(pool.OpenCoalition(REOPENED))
    again = openings(reopening.then(REOPENED))
    assert (again.over, again.paying, again.gda_pool_of(2)) == (False, 2, REOPENED.gda_pool)


def test_an_end_that_another_opening_has_followed_says_nothing() -> None:
    given(decider, *PRICED, OPENED, REOPENED).when(END).nothing()


def test_an_epoch_that_has_ended_is_not_opened_by_a_late_word() -> None:
    late = msgspec.structs.replace(OPENED, epoch=2)
    given(decider, *PRICED, OPENED, ENDED).when(pool.OpenCoalition(late)).refused(pool.CoalitionEpochStale)
    unheard = pool.CoalitionEnded(OPENED.coalition, 2, ref(9))
    ended = openings(given(decider, *PRICED, OPENED).when(coalition.EndCoalition(unheard)).then(unheard))
    assert ended.over
    reopening = given(decider, *PRICED, OPENED, unheard).when(pool.OpenCoalition(REOPENED))
    reopening.refused(pool.CoalitionEpochStale)


def test_an_end_whose_block_is_taken_back_did_not_happen() -> None:
    reverted = pool.CoalitionEndReverted(OPENED.coalition, 1, 1, OPENED.gda_pool, ENDED.at)
    revert = coalition.RevertCoalitionEnd(ENDED.at)
    state = openings(given(decider, *PRICED, OPENED, ENDED).when(revert).then(reverted))
    assert (state.over, state.paying) == (False, 1)
    given(decider, *PRICED, OPENED, ENDED, reverted).when(revert).nothing()
    elsewhere = pool.CoalitionEnded(OPENED.coalition, 1, ref(9))
    moved = given(decider, *PRICED, OPENED, ENDED).when(coalition.EndCoalition(elsewhere))
    assert openings(moved.then(reverted, elsewhere)).ends == (elsewhere,)


def test_the_end_of_anothers_coalition_is_refused() -> None:
    foreign = msgspec.structs.replace(ENDED, coalition="0x" + "dd" * 20)
    given(decider, *PRICED).when(END).refused(pool.CoalitionDiffers)
    given(decider, *PRICED, OPENED).when(coalition.EndCoalition(foreign)).refused(pool.CoalitionDiffers)


def test_who_attests_may_be_said_later_and_is_not_forgotten() -> None:
    state = given(decider, *PRICED, OPENED_LATE, NAMED_LATE).when(pool.OpenCoalition(OPENED_LATE)).nothing()
    assert isinstance(state, pool.Forming)
    assert state.openings.breach_terms == BREACH_TERMS
    given(decider, *PRICED, OPENED_LATE).when(pool.OpenCoalition(NAMED_LATE)).then(NAMED_LATE)


def test_a_coalition_that_can_not_be_the_pools_is_refused() -> None:
    later = msgspec.structs.replace(OPENED, epoch=2, chain_epoch=2)
    other = msgspec.structs.replace(OPENED, epoch=2, coalition="0x" + "dd" * 20)
    given(decider, *SERVING).when(pool.OpenCoalition(OPENED)).refused(pool.PoolIsFree)
    given(decider, *PRICED).when(pool.OpenCoalition(OPENED)).refused(pool.CoalitionEpochStale)
    given(decider, *PRICED, later).when(pool.OpenCoalition(other)).refused(pool.CoalitionDiffers)
    older = msgspec.structs.replace(later, chain_epoch=1)
    given(decider, *PRICED, later).when(pool.OpenCoalition(older)).refused(pool.CoalitionEpochStale)
    given(decider, *PRICED, pool.Retired("")).when(pool.OpenCoalition(later)).refused(pool.PoolRetired)
