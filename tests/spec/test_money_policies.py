"""What follows for the money from events and from the passing of time."""

from typing import Any

from events import money_policies, payment, policies, pool, session, stream
from events.envelope import Recorded
from events.policies import Dispatch, Do
from events.view import KEEP_CLOSED_MS
from tests.aggregates import FAR_FUTURE_MS, generation_ended, opened, request_started, ulid
from tests.money import CAP, RATE, closed, opened_paid, ref, started, stopped, terms, verified
from tests.spec.test_policies import POOL, Told, serving

SESSION = ulid(600)
TERMS = terms()
SETTLED = payment.PaymentSettled(str(CAP), ref(1))
START = stream.StartRequested(1, TERMS, 1, 1, 0)
CLOSE = stream.StopRequested(2, TERMS, True, "payer", 0)


class Money:
    """A served pool with one paid session, and the money's reactions to the last event told."""

    def __init__(self, **changes: Any) -> None:
        self.told: Told = serving()
        self.view = self.told.view
        single = {key: value for key, value in changes.items() if key == "single_request"}
        self.tell("session", verified(**changes), SETTLED, opened_paid(**single))

    def tell(self, kind: str, *events: Any, of: str = SESSION) -> tuple[policies.Reaction, ...]:
        self.told.tell(kind, of, *events)
        return money_policies.react(self.last, self.view)

    @property
    def last(self) -> Recorded:
        assert self.told.last is not None
        return self.told.last


def commands(reactions: tuple[policies.Reaction, ...]) -> list[Any]:
    return [item.command for item in reactions if isinstance(item, Do)]


def test_the_stream_pays_for_the_requests_in_flight() -> None:
    money = Money()
    (one,) = commands(money.tell("session", request_started(1)))
    (two,) = commands(money.tell("session", request_started(2)))
    (less,) = commands(money.tell("session", generation_ended(1)))
    (none,) = commands(money.tell("session", generation_ended(2)))
    assert [command.active for command in (one, two, less, none)] == [1, 2, 1, 0]
    assert one.terms == TERMS
    assert one.epoch == 1


def test_a_single_request_session_closes_after_its_request() -> None:
    money = Money(single_request=True)
    money.tell("session", request_started(1))
    assert commands(money.tell("session", generation_ended(1))) == [payment.RequestClose("single_request")]
    assert policies.react(money.last, money.view) == ()


def test_a_free_session_moves_no_money() -> None:
    money = Money()
    for event in (opened(single_request=True), request_started(1), generation_ended(1)):
        assert money.tell("session", event, of=ulid(601)) == ()


def test_closing_stops_the_stream_for_good_and_the_ring_too() -> None:
    money = Money()
    money.tell("session", request_started(1))
    reactions = money.tell("session", payment.CloseRequested("budget"))
    (close,) = commands(reactions)
    assert (close.reason, close.terms) == ("budget", TERMS)
    cancelled = [(r.node_id, r.request_id, r.reason) for r in reactions if isinstance(r, Dispatch)]
    assert cancelled == [(ulid(1), ulid(1), "budget"), (ulid(2), ulid(1), "budget")]
    assert money_policies.react(money.last, money.view) == reactions


def test_expiry_and_a_lost_payment_stop_the_stream_too() -> None:
    (close,) = commands(Money().tell("session", session.Expired(1)))
    assert close.reason == "expired"
    (close,) = commands(Money().tell("session", payment.PaymentReverted("reorg", str(CAP), ref(1))))
    assert close.reason == "payment_reverted"


def test_the_session_settles_once_every_wei_is_there() -> None:
    money = Money()
    money.tell("stream", START, started(3))
    assert money.tell("stream", CLOSE) == ()
    assert money.tell("stream", closed(12, 3, spent_before=6 * RATE)) == ()
    (settle,) = commands(money.tell("stream", stopped(9, 6)))
    assert settle == payment.SettlePayment(str(CAP), str(CAP - 9 * RATE))


def test_an_end_that_comes_after_the_refund_settles_the_session() -> None:
    money = Money()
    money.tell("session", request_started(1), payment.CloseRequested("budget"))
    money.tell("stream", START, started(3), CLOSE, closed(9, 6))
    (settle,) = commands(money.tell("session", generation_ended(1)))
    assert isinstance(settle, payment.SettlePayment)


def test_a_start_that_failed_ends_the_request_and_the_session() -> None:
    money = Money()
    money.tell("session", request_started(1))
    money.tell("stream", START)
    end, close = commands(money.tell("stream", stream.StartFailed(1, "insufficient")))
    assert (end.ended.finish_reason, end.ended.error_code) == ("error", "insufficient")
    assert close == payment.RequestClose("start_failed")


def paid_by(epoch: int, chain_epoch: int) -> pool.CoalitionOpened:
    gda_pool = f"0x{chain_epoch:040x}"
    return pool.CoalitionOpened("0x" + "c0" * 20, 31337, epoch, chain_epoch, gda_pool, ref(epoch))


def test_money_follows_the_epoch_that_the_coalition_has_opened() -> None:
    """A plan that serves already, and whose operators nothing pays yet, is not asked of the chain."""
    money = Money()
    money.tell("pool", paid_by(1, 1), of=POOL)
    (begun,) = commands(money.tell("session", request_started(1)))
    assert (begun.epoch, begun.active) == (1, 1)
    shards = money.view.pools[POOL].serving.shards  # type: ignore[union-attr]
    money.tell("pool", pool.Planned(2, shards, "again"), of=POOL)
    ready = (pool.ShardReady(2, ulid(1), 1), pool.ShardReady(2, ulid(2), 1), pool.EpochChanged(2))
    assert not commands(money.tell("pool", *ready, of=POOL))
    (more,) = commands(money.tell("session", request_started(2)))
    assert (more.epoch, more.active) == (1, 2)
    (moved,) = commands(money.tell("pool", paid_by(2, 2), of=POOL))
    assert (moved.epoch, moved.active) == (2, 2)


def test_a_plan_with_the_same_seats_asks_nothing_new_of_the_chain() -> None:
    money = Money()
    money.tell("pool", paid_by(1, 1), of=POOL)
    money.tell("session", request_started(1))
    (same,) = commands(money.tell("pool", paid_by(2, 1), of=POOL))
    assert (same.epoch, same.active) == (1, 1)


def two_plans() -> Money:
    """One request runs in the first plan, which is paid; the second serves."""
    money = Money()
    money.tell("pool", paid_by(1, 1), of=POOL)
    money.tell("session", request_started(1))
    shards = money.view.pools[POOL].serving.shards  # type: ignore[union-attr]
    money.tell("pool", pool.Planned(2, shards, "again"), of=POOL)
    ready = (pool.ShardReady(2, ulid(1), 1), pool.ShardReady(2, ulid(2), 1), pool.EpochChanged(2))
    money.tell("pool", *ready, of=POOL)
    return money


def test_a_stream_that_paid_an_epoch_before_the_log_knew_it_is_not_asked_again() -> None:
    """The chain would change nothing, so no fact could ever say that it was done."""
    money, newest = two_plans(), paid_by(2, 2)
    money.tell("stream", START, started(2, gda_pool=newest.gda_pool))
    (same,) = commands(money.tell("pool", newest, of=POOL))
    assert (same.epoch, same.active) == (1, 1)
    assert money.view.streams[SESSION].satisfied
    (more,) = commands(money.tell("session", request_started(2)))
    assert (more.epoch, more.active) == (1, 2)


def test_nor_when_the_log_knows_the_epoch_a_moment_before_the_stream() -> None:
    money, newest = two_plans(), paid_by(2, 2)
    (moved,) = commands(money.tell("pool", newest, of=POOL))
    assert moved.epoch == 2
    again = stream.StartRequested(2, TERMS, 2, 1, 5)
    money.tell("stream", START, again)
    (same,) = commands(money.tell("stream", started(2, gda_pool=newest.gda_pool)))
    assert (same.epoch, same.active) == (1, 1)
    money.tell("stream", stream.StartRequested(3, TERMS, 1, 1, 6))
    assert money.view.streams[SESSION].satisfied


def test_a_budget_that_is_used_up_closes_the_session() -> None:
    money = Money()
    money.tell("session", request_started(1))
    money.tell("stream", START, started(3, hard_stop_unix_s=100))
    assert money_policies.overdue(money.view, 99_999) == ()
    (found,) = money_policies.overdue(money.view, 100_000)
    assert found.command == payment.RequestClose("budget")
    money.tell("session", payment.CloseRequested("budget"))
    assert money_policies.overdue(money.view, 100_000) == ()


def test_a_stop_that_the_chain_does_not_show_is_overdue() -> None:
    money = Money()
    money.tell("stream", START, started(3), CLOSE)
    assert money_policies.overdue(money.view, money_policies.STOP_OVERDUE_MS) == ()
    (found,) = money_policies.overdue(money.view, money_policies.STOP_OVERDUE_MS + 1)
    assert isinstance(found.command, stream.MarkOverdue)
    money.tell("stream", *stream.decide(found.command, money.view.streams[SESSION]))
    assert money_policies.overdue(money.view, money_policies.STOP_OVERDUE_MS + 1) == ()


def test_what_is_not_yet_as_asked_is_due() -> None:
    money = Money()
    money.tell("stream", START)
    assert [key for key, _ in money_policies.due(money.view)] == [SESSION]
    money.tell("stream", started(3))
    assert list(money_policies.due(money.view)) == []
    money.tell("stream", CLOSE)
    assert [key for key, _ in money_policies.due(money.view)] == [SESSION]
    money.tell("session", payment.PaymentReverted("reorg", str(CAP), ref(1)))
    assert list(money_policies.due(money.view)) == [], "an escrow without its voucher can do nothing"
    money.tell("session", payment.PaymentReverted("voucher_expired", "0"))
    assert SESSION not in money.view.streams


def test_a_closed_stream_is_remembered_for_a_while_because_of_reorgs() -> None:
    money = Money()
    money.tell("stream", START, started(3), CLOSE, closed(9, 6))
    money.tell("session", session.Settled(0, str(CAP), str(CAP - 6 * RATE)))
    assert SESSION in money.view.streams
    money.tell("stream", stream.Reverted((), "0", "0", ref(9)))
    assert [key for key, _ in money_policies.due(money.view)] == [SESSION]
    money.view._forget(money.last.time_unix_ms + KEEP_CLOSED_MS)
    assert SESSION in money.view.streams
    money.view._forget(money.last.time_unix_ms + KEEP_CLOSED_MS + 1)
    assert SESSION not in money.view.streams


def test_an_escrow_that_a_reorg_opened_again_is_closed_again() -> None:
    money = Money()
    money.tell("session", request_started(1))
    money.tell("stream", START, started(3), closed(9, 6))
    money.tell("session", generation_ended(1), session.Settled(1, str(CAP), str(CAP - 6 * RATE)))
    (close,) = commands(money.tell("stream", stream.Reverted((), "0", "0", ref(9))))
    assert (close.terms, close.reason) == (TERMS, "payer")
    money.tell("stream", stream.StopRequested(2, TERMS, True, "payer", 0))
    assert commands(money.tell("stream", stream.Reverted((), "0", "0", ref(3)))) == []


def test_a_verified_voucher_waits_for_its_settlement() -> None:
    told = serving()
    told.tell("session", SESSION, verified())
    assert set(told.view.paying) == {SESSION}
    told.tell("session", SESSION, SETTLED, opened_paid())
    assert told.view.paying == {}
    assert told.view.sessions[SESSION].voucher == verified()
    assert policies.overdue(told.view, FAR_FUTURE_MS)[0].command == session.Expire(FAR_FUTURE_MS)
    told.tell("session", SESSION, session.Expired(FAR_FUTURE_MS))
    assert policies.overdue(told.view, FAR_FUTURE_MS) == ()
