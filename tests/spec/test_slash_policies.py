"""Who is reported when a node falls silent, by which terms; what becomes of reports that nobody proves."""

from typing import Any

from msgspec.structs import replace

from events import node, payment, pool, slash, slash_policies
from events.ids import slash_id_of
from events.policies import Do
from tests.aggregates import opened, registered, request_started, ulid
from tests.money import opened_paid, ref, terms, verified
from tests.slashing import ATTESTORS, BREACH_TERMS, EVIDENCE, breach, reported, vote
from tests.spec.test_money_policies import SESSION, SETTLED, Money
from tests.spec.test_policies import POOL, ROUND_MS

OPENED = pool.CoalitionOpened("0x" + "c0" * 20, 31337, 1, 1, "0x" + "1a" * 20, ref(7), BREACH_TERMS)


BEFORE_MS = ROUND_MS - slash_policies.SILENT_AT_START_MS
"""When a node was last seen that was not there when the session began, at `ROUND_MS`."""


def silent(money: Money, number: int = 1, last_seen_unix_ms: int = ROUND_MS) -> tuple[Do, ...]:
    money.tell("node", node.Lost(last_seen_unix_ms), of=ulid(number))
    return slash_policies.react(money.last, money.view)


def paid(opened: pool.CoalitionOpened | None = OPENED) -> Money:
    money = Money()
    if opened is not None:
        money.tell("pool", opened, of=POOL)
    return money


def test_a_silent_node_with_a_paid_request_in_its_ring_is_reported_by_the_coalitions_terms() -> None:
    money = paid()
    money.tell("session", request_started(1))
    (do,) = silent(money)
    operator = registered(1).payout_wallet
    assert (do.kind, do.aggregate_id) == ("slash", slash_id_of(SESSION, operator, "stall"))
    case: Any = do.command.reported
    assert (case.session_id, case.pool_id, case.node_id, case.operator) == (SESSION, POOL, ulid(1), operator)
    assert (case.escrow, case.chain_id, case.coalition) == (terms().escrow, 31337, OPENED.coalition)
    assert (case.attestors, case.quorum, case.most_micro) == (ATTESTORS, 3, 1_000_000)
    assert (case.least_probes, case.longest_probe_window_s, case.reporter) == (3, 600, "node.lost")
    assert slash.slash.decide(do.command, slash.Absent()) == (case,)
    assert slash_policies.react(money.last, money.view) == (do,)


def test_nobody_is_reported_without_a_request_a_voucher_terms_or_a_place_in_the_ring() -> None:
    assert silent(paid()) == ()
    for without in (None, replace(OPENED, breach_terms=None)):
        money = paid(without)
        money.tell("session", request_started(1))
        assert silent(money) == ()
    money = paid()
    money.tell("session", request_started(1))
    money.tell("node", registered(9), of=ulid(9))
    assert silent(money, 9) == ()


def test_a_node_that_was_silent_when_the_session_began_did_not_show_up() -> None:
    """Whether anybody has asked yet or not; and the silence is no stall besides."""
    for asked in (False, True):
        money = paid()
        if asked:
            money.tell("session", request_started(1))
        (do,) = silent(money, 2, BEFORE_MS)
        operator = registered(2).payout_wallet
        assert do.aggregate_id == slash_id_of(SESSION, operator, "no_show")
        case: Any = do.command.reported
        assert (case.kind, case.node_id, case.reporter) == ("no_show", ulid(2), "node.lost")
        assert slash_policies.react(money.last, money.view) == (do,)


def test_a_node_that_was_seen_when_the_session_began_did_show_up() -> None:
    assert silent(paid(), 2, BEFORE_MS + 1) == ()
    money = paid()
    money.tell("session", request_started(1))
    (do,) = silent(money, 2, BEFORE_MS + 1)
    assert do.command.reported.kind == "stall"


def test_members_that_were_lost_when_the_payment_came_did_not_show_up() -> None:
    money, later = paid(), ulid(601)
    assert silent(money, 2) == ()
    begun = (verified(), SETTLED, opened_paid())
    money.told.tell("session", later, *begun, at_unix_ms=ROUND_MS + slash_policies.SILENT_AT_START_MS)
    (do,) = slash_policies.react(money.last, money.view)
    assert do.aggregate_id == slash_id_of(later, registered(2).payout_wallet, "no_show")
    assert do.command.reported.reporter == "session.opened"
    money.told.tell("session", later, request_started(1), at_unix_ms=ROUND_MS + 60_000)
    assert slash_policies.react(money.last, money.view) == ()


def test_another_silence_of_a_node_that_came_back_is_a_stall() -> None:
    money = paid()
    (first,) = silent(money, 2, BEFORE_MS)
    money.tell("node", node.Recovered(ROUND_MS + 100_000), of=ulid(2))
    money.tell("session", request_started(1))
    (second,) = silent(money, 2, ROUND_MS + 100_000)
    assert [do.command.reported.kind for do in (first, second)] == ["no_show", "stall"]


def test_nobody_fails_to_show_up_in_what_pays_nobody() -> None:
    """A session that takes no more requests, a pool without terms or a paid epoch, a node without a seat."""
    money = paid()
    money.tell("session", payment.CloseRequested("payer"))
    assert silent(money, 1, BEFORE_MS) == ()
    for without in (None, replace(OPENED, breach_terms=None)):
        assert silent(paid(without), 1, BEFORE_MS) == ()
    money = paid()
    money.tell("pool", pool.CoalitionEnded(OPENED.coalition, 1, ref(8)), of=POOL)
    assert silent(money, 1, BEFORE_MS) == ()
    money = paid()
    money.tell("node", registered(9), of=ulid(9))
    assert silent(money, 9, BEFORE_MS) == ()
    free = ulid(602)
    money.tell("session", opened(), of=free)
    assert slash_policies.react(money.last, money.view) == ()


def test_a_report_that_nobody_proves_ends_with_the_time_for_votes() -> None:
    money, case = paid(), reported()
    money.tell("slash", case, of=ulid(800))
    late_ms = (case.votes_until_unix_s + 1) * 1000
    assert slash_policies.overdue(money.view, late_ms - 1000) == ()
    (do,) = slash_policies.overdue(money.view, late_ms)
    assert do.command == slash.Expire(late_ms)
    money.tell("slash", slash.ReportRejected("votes_expired"), of=ulid(800))
    assert slash_policies.overdue(money.view, late_ms) == ()


def test_a_voted_breach_is_never_overdue() -> None:
    money, case = paid(), reported()
    quorum = slash.QuorumReached(breach(), (), ())
    money.tell("slash", case, EVIDENCE, vote(1), vote(2), vote(3), quorum, of=ulid(800))
    assert slash_policies.overdue(money.view, (case.votes_until_unix_s + 1) * 1000) == ()
