"""What a money stream's decider decides, and what its facts add up to."""

from itertools import permutations
from typing import Any

import pytest

from events import stream
from events.chain import total_wei
from events.stream import stream as decider
from tests.money import CAP, RATE, closed, ref, shares, started, stopped, terms
from tests.spec.scenario import given

TERMS = terms()
START = stream.StartRequested(1, TERMS, 1, 1, 5)
TWO = stream.StartRequested(2, TERMS, 1, 2, 6)
STOP = stream.StopRequested(2, TERMS, False, "idle", 6)
CLOSE = stream.StopRequested(2, TERMS, True, "payer", 6)


def active(count: int, epoch: int = 1, at: int = 6) -> stream.SetActive:
    return stream.SetActive(TERMS, epoch, count, at)


def after(*events: Any) -> stream.Stream:
    state = decider.fold(events)
    assert isinstance(state, stream.Stream)
    return state


def test_the_first_request_starts_a_stream() -> None:
    given(decider).when(active(1, at=5)).then(START)
    given(decider).when(active(0)).nothing()


def test_it_follows_the_requests_in_flight() -> None:
    given(decider, START).when(active(1)).nothing()
    given(decider, START).when(active(2)).then(TWO)
    given(decider, START).when(active(0)).then(STOP)
    given(decider, START, STOP).when(active(0)).nothing()
    given(decider, START, STOP).when(active(1)).then(stream.StartRequested(3, TERMS, 1, 1, 6))


def test_a_new_epoch_is_another_change() -> None:
    given(decider, START).when(active(1, epoch=2)).then(stream.StartRequested(2, TERMS, 2, 1, 6))


def test_closing_is_asked_once_and_is_for_good() -> None:
    close = stream.Close(TERMS, "payer", 6)
    given(decider, START).when(close).then(CLOSE)
    given(decider, START, CLOSE).when(close).nothing()
    given(decider, START, CLOSE).when(active(1)).nothing()
    given(decider).when(close).then(stream.StopRequested(1, TERMS, True, "payer", 6))


def test_an_escrow_has_one_set_of_terms() -> None:
    other = terms(rate_wei_per_s=str(2 * RATE))
    given(decider, START).when(stream.SetActive(other, 1, 2, 6)).refused(stream.StreamTermsDiffer)
    given(decider, START).when(stream.Close(other, "payer", 6)).refused(stream.StreamTermsDiffer)


def test_a_fact_is_taken_once_however_often_it_is_told() -> None:
    given(decider, START).when(stream.Observe(started(3))).then(started(3))
    given(decider, START, started(3)).when(stream.Observe(started(3))).nothing()
    given(decider).when(stream.Observe(started(3))).refused(stream.StreamUnknown)


@pytest.mark.parametrize(
    "fact",
    [
        started(3, rate_wei_per_s="0"),
        started(3, active=0),
        stopped(4, 1, refund_wei="1"),
        stream.Reconciled("running", 0, "0", 0, 0, (), "0", "0", ref(5)),
        stream.Reconciled("stopped", 1, str(RATE), 1, 9, (), "0", "0", ref(5)),
    ],
)
def test_a_fact_that_contradicts_itself_is_refused(fact: stream.Fact) -> None:
    given(decider, START).when(stream.Observe(fact)).refused(stream.StreamFactInconsistent)


def test_it_is_satisfied_only_by_the_chain() -> None:
    assert not after(START).satisfied
    assert after(START, started(3)).satisfied
    assert not after(START, started(3), TWO).satisfied
    assert not after(START, started(3), STOP).satisfied
    assert after(START, started(3), STOP, stopped(9, 6)).satisfied
    assert not after(START, started(3), CLOSE, stopped(9, 6)).satisfied
    assert after(START, started(3), CLOSE, closed(9, 6)).satisfied


def test_facts_in_any_order_of_arrival_come_to_the_same() -> None:
    facts = (started(3), stopped(9, 6), started(20), closed(25, 5, spent_before=6 * RATE))
    states = [after(START, *order) for order in permutations(facts)]
    assert all(state == states[0] for state in states)
    assert states[0].paid_wei == 11 * RATE
    assert states[0].balanced


def test_it_is_balanced_only_when_every_wei_is_there() -> None:
    whole = (START, started(3), stopped(9, 6), started(20), closed(25, 5, spent_before=6 * RATE))
    assert after(*whole).balanced
    for missing in (2, 4):
        assert not after(*whole[:missing], *whole[missing + 1 :]).balanced
    one_wei = closed(25, 5, spent_before=6 * RATE + 1)
    assert not after(*whole[:-1], one_wei).balanced


def test_a_start_that_the_chain_refuses_is_given_up() -> None:
    failed = stream.StartFailed(1, "GDA_INSUFFICIENT_BALANCE")
    state = given(decider, START).when(stream.FailStart(1, "GDA_INSUFFICIENT_BALANCE")).then(failed)
    assert state.satisfied
    given(decider, START, failed).when(stream.FailStart(1, "x")).nothing()
    given(decider, START, TWO).when(stream.FailStart(1, "x")).nothing()
    given(decider, START, STOP).when(stream.FailStart(2, "x")).nothing()
    given(decider, START, started(3)).when(stream.FailStart(1, "x")).nothing()


def test_a_stop_that_does_not_come_is_overdue_once() -> None:
    late = stream.MarkOverdue(2, 10_006)
    overdue = stream.StopOverdue(2, 10_000)
    given(decider, START, started(3), STOP).when(late).then(overdue)
    given(decider, START, started(3), STOP, overdue).when(late).nothing()
    given(decider, START, started(3), STOP, stopped(9, 6)).when(late).nothing()
    given(decider, START).when(stream.MarkOverdue(1, 10_006)).nothing()


def test_a_reorg_takes_a_fact_back_and_the_effect_is_due_again() -> None:
    taken = stream.Reverted(shares(6), "0", "0", ref(9))
    before = (START, started(3), STOP, stopped(9, 6))
    state = given(decider, *before).when(stream.Revert(ref(9))).then(taken)
    assert (state.active, state.satisfied) == (1, False)
    given(decider, *before, taken).when(stream.Revert(ref(9))).nothing()
    again = stopped(10, 7)
    given(decider, *before, taken).when(stream.Observe(again)).then(again)


def test_what_others_did_is_reconciled() -> None:
    by_other = stream.Reconciled("closed", 0, "0", 0, 0, shares(6), "0", str(CAP - 6 * RATE), ref(9))
    state = given(decider, START, started(3)).when(stream.Observe(by_other)).then(by_other)
    assert state.closed
    assert state.balanced
    liquidated = stream.Liquidated(shares(6), str(CAP - 6 * RATE), ref(9))
    state = given(decider, START, started(3)).when(stream.Observe(liquidated)).then(liquidated)
    assert (state.active, state.closed) == (0, False)


def test_shares_add_up() -> None:
    assert total_wei(shares(6)) == 6 * RATE
