"""Who is reported when a node falls silent, by which terms; what becomes of reports that nobody proves."""

from typing import Any

from msgspec.structs import replace

from events import node, pool, slash, slash_policies
from events.ids import slash_id_of
from events.policies import Do
from tests.aggregates import registered, request_started, ulid
from tests.money import ref, terms
from tests.slashing import ATTESTORS, BREACH_TERMS, EVIDENCE, breach, reported, vote
from tests.spec.test_money_policies import SESSION, Money
from tests.spec.test_policies import POOL

OPENED = pool.CoalitionOpened("0x" + "c0" * 20, 31337, 1, 1, "0x" + "1a" * 20, ref(7), BREACH_TERMS)


def silent(money: Money, number: int = 1) -> tuple[Do, ...]:
    money.tell("node", node.Lost(1), of=ulid(number))
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
    for opened in (None, replace(OPENED, breach_terms=None)):
        money = paid(opened)
        money.tell("session", request_started(1))
        assert silent(money) == ()
    money = paid()
    money.tell("session", request_started(1))
    money.tell("node", registered(9), of=ulid(9))
    assert silent(money, 9) == ()


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
