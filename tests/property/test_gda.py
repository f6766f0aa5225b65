"""The integer rules of Superfluid's pools, on figures that were seen on a chain, and what they refuse."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.gda import (
    FLOW_TOPIC,
    Distributed,
    Fact,
    FlowSet,
    GdaMismatch,
    GdaPool,
    UnitsSet,
    after,
    fact_of,
    replay,
)

PAYER, ONE, TWO = ("0x" + digit * 40 for digit in "abc")
E12 = 10**12


def flow(old: int, rate: int, at: int, adjustment: int = 0, total: int | None = None) -> FlowSet:
    return FlowSet(PAYER, old, rate, rate if total is None else total, adjustment, at)


def test_a_member_gets_its_units_times_the_rate_per_unit_times_the_seconds() -> None:
    pool = replay([UnitsSet(ONE, 0, 3, 100), UnitsSet(TWO, 0, 4, 100), flow(0, 999_999_999_999, 200)])
    assert pool.rate_per_unit == 142_857_142_857
    assert pool.received(ONE, 237) == 3 * 142_857_142_857 * 37
    assert pool.received(TWO, 237) == 4 * 142_857_142_857 * 37
    assert pool.spent(PAYER, 237) == 999_999_999_999 * 37
    assert pool.received(ONE, 200) == 0


def test_units_that_change_under_a_running_flow_send_the_rest_to_the_admin() -> None:
    pool = replay([UnitsSet(ONE, 0, 7, 100), flow(0, 999_999_999_999, 200), UnitsSet(TWO, 0, 1, 210)])
    assert pool.rate_per_unit == 124_999_999_999
    assert pool.adjustment_rate == 7
    assert pool.received(ONE, 220) == 7 * (142_857_142_857 * 10 + 124_999_999_999 * 10)
    assert pool.received(TWO, 220) == 124_999_999_999 * 10
    assert pool.adjustments(220) == 70
    assert pool.spent(PAYER, 220) == 999_999_999_999 * 20


def test_when_all_units_are_gone_the_whole_flow_is_the_admins() -> None:
    pool = replay([UnitsSet(ONE, 0, 5, 1), flow(0, 50, 2), UnitsSet(ONE, 5, 0, 4)])
    assert (pool.rate_per_unit, pool.adjustment_rate) == (0, 50)
    assert pool.received(ONE, 9) == 100
    assert pool.adjustments(9) == 250


def test_a_stop_settles_at_its_block_and_nothing_flows_afterwards() -> None:
    pool = replay([UnitsSet(ONE, 0, 10_000, 1), flow(0, 5 * E12, 10), flow(5 * E12, 0, 47)])
    assert pool.received(ONE, 47) == pool.received(ONE, 10**9) == 5 * E12 * 37
    assert pool.spent(PAYER, 10**9) == 5 * E12 * 37


def test_at_once_only_what_divides_is_paid() -> None:
    pool = replay([UnitsSet(ONE, 0, 7, 1), Distributed(PAYER, 100, 98, 2), Distributed(PAYER, 6, 0, 2)])
    assert pool.received(ONE, 2) == 98
    assert pool.spent(PAYER, 2) == 98


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ([UnitsSet(ONE, 0, 7, 1), UnitsSet(ONE, 6, 8, 2)], "had 7 units"),
        ([UnitsSet(ONE, 0, 7, 9), UnitsSet(ONE, 7, 8, 8)], "was at 9 already"),
        ([UnitsSet(ONE, 0, 7, 1), flow(0, 50, 2)], "do not divide"),
        ([UnitsSet(ONE, 0, 5, 1), flow(1, 50, 2)], "rate was 0"),
        ([UnitsSet(ONE, 0, 5, 1), flow(0, 50, 2, adjustment=1)], "distributors pay 50"),
        ([UnitsSet(ONE, 0, 5, 1), flow(0, 50, 2, total=45)], "distributors pay 50"),
        ([UnitsSet(ONE, 0, 5, 1), flow(0, -5, 2)], "negative"),
        ([flow(0, 50, 2)], "do not divide"),
        ([UnitsSet(ONE, 0, 7, 1), Distributed(PAYER, 100, 99, 2)], "98 of it divides"),
    ],
)
def test_events_that_do_not_follow_from_each_other_are_refused(facts: list[Fact], why: str) -> None:
    with pytest.raises(GdaMismatch, match=why):
        replay(facts)


def test_a_log_too_short_to_be_one_is_refused_and_a_strange_one_is_none() -> None:
    with pytest.raises(GdaMismatch, match="a log of 32 bytes"):
        fact_of([FLOW_TOPIC, bytes(32), bytes(32), bytes(32)], bytes(32), 5)
    with pytest.raises(GdaMismatch):
        fact_of([FLOW_TOPIC], bytes(320), 5)
    assert fact_of([bytes(32)], b"", 5) is None
    assert fact_of([], b"", 5) is None


AMOUNTS = st.integers(0, 10**30)


@given(
    st.lists(
        st.tuples(st.sampled_from(["units", "flow", "now"]), AMOUNTS, st.integers(0, 10**7)), max_size=30
    )
)
def test_what_distributors_pay_is_what_members_and_admin_get_whatever_happens(
    drawn: list[tuple[str, int, int]],
) -> None:
    """Events are made as the chain makes them: only what divides is paid."""
    pool, at = GdaPool(), 0
    for number, (kind, amount, seconds) in enumerate(drawn):
        at += seconds
        if kind == "units":
            member = (ONE, TWO)[number % 2]
            held = pool.members[member].units if member in pool.members else 0
            pool = after(pool, UnitsSet(member, held, amount % 10_007, at))
        elif kind == "flow" and pool.units:
            old = pool.distributors[PAYER].rate if PAYER in pool.distributors else 0
            total = amount // pool.units * pool.units
            pool = after(pool, FlowSet(PAYER, old, total, total, 0, at))
        elif kind == "now" and pool.units:
            pool = after(pool, Distributed(PAYER, amount, amount // pool.units * pool.units, at))
        got = pool.received(ONE, at + 5) + pool.received(TWO, at + 5) + pool.adjustments(at + 5)
        assert got == pool.spent(PAYER, at + 5)
