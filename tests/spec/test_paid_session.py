"""What a paid session's decider decides about its voucher, beside what every session does."""

import pytest

from events import payment, session
from events.session import session as decider
from tests.aggregates import FAR_FUTURE_MS, generation_ended, request_started, ulid
from tests.money import CAP, PAYER, RATE, opened_paid, ref, terms, verified
from tests.spec.scenario import given

VERIFIED = verified()
SETTLED = payment.PaymentSettled(str(CAP), ref(1))
OPEN = (VERIFIED, SETTLED, opened_paid())
SPENT = 11 * RATE
MONEY = payment.SettlePayment(str(CAP), str(CAP - SPENT))
GONE = payment.PaymentReverted("reorg", str(CAP), ref(1))
NEVER = payment.PaymentReverted("voucher_expired", "0")


def start(number: int, at_unix_ms: int = 0) -> session.StartRequest:
    return session.StartRequest(PAYER, request_started(number), at_unix_ms)


def test_a_priced_session_does_not_open_by_itself() -> None:
    given(decider).when(session.Open(opened_paid())).refused(payment.PaymentMissing)


def test_a_voucher_is_verified_once() -> None:
    verify = payment.VerifyPayment(VERIFIED)
    given(decider).when(verify).then(VERIFIED)
    given(decider, VERIFIED).when(verify).nothing()
    given(decider, *OPEN).when(verify).nothing()
    other = payment.VerifyPayment(verified(terms=terms(cap_wei="1")))
    given(decider, VERIFIED).when(other).refused(session.SessionAlreadyOpen)
    given(decider, *OPEN).when(other).refused(session.SessionAlreadyOpen)


def test_nothing_starts_before_the_voucher_has_settled() -> None:
    given(decider, VERIFIED).when(start(1)).refused(payment.PaymentMissing)
    given(decider, VERIFIED).when(session.Open(opened_paid())).refused(session.SessionAlreadyOpen)
    given(decider, VERIFIED).when(payment.ConfirmPayment(ref(1))).then(SETTLED, opened_paid())
    given(decider, *OPEN).when(payment.ConfirmPayment(ref(1))).nothing()
    given(decider, *OPEN).when(start(1)).then(request_started(1))


def test_a_voucher_that_fails_opens_nothing() -> None:
    state = given(decider, VERIFIED).when(payment.FailPayment("voucher_expired")).then(NEVER)
    assert state == payment.Unpaid(VERIFIED)
    given(decider, VERIFIED, NEVER).when(payment.FailPayment("voucher_expired")).nothing()
    for late in (payment.ConfirmPayment(ref(1)), start(1), payment.VerifyPayment(VERIFIED)):
        given(decider, VERIFIED, NEVER).when(late).refused(session.SessionClosed)


def test_only_so_many_requests_at_once_as_the_voucher_allows() -> None:
    two = (*OPEN, request_started(1), request_started(2))
    given(decider, *two).when(start(3)).refused(payment.ConcurrencyExceeded)
    given(decider, *two, generation_ended(1)).when(start(3)).then(request_started(3))


@pytest.mark.parametrize("reason", ["payer", "single_request", "budget", "start_failed"])
def test_a_closing_session_takes_no_request_and_hears_the_end_of_those_that_run(
    reason: payment.CloseReason,
) -> None:
    closing = payment.CloseRequested(reason)
    before = (*OPEN, request_started(1))
    given(decider, *before).when(payment.RequestClose(reason)).then(closing)
    given(decider, *before, closing).when(payment.RequestClose(reason)).nothing()
    given(decider, *before, closing).when(start(2)).refused(session.SessionClosed)
    given(decider, *before, closing).when(session.EndGeneration(generation_ended(1))).then(
        generation_ended(1)
    )


def test_its_payer_closes_it_when_nothing_runs() -> None:
    given(decider, *OPEN, request_started(1)).when(session.Settle()).refused(session.SessionBusy)
    closing = payment.CloseRequested("payer")
    given(decider, *OPEN).when(session.Settle()).then(closing)
    given(decider, *OPEN, closing).when(session.Settle()).nothing()


def test_an_expired_session_still_settles_its_money() -> None:
    expired = session.Expired(FAR_FUTURE_MS)
    cut_off = session.GenerationEnded(ulid(1), "error", 5, 0, None, "session_expired")
    given(decider, *OPEN, request_started(1)).when(session.Expire(FAR_FUTURE_MS)).then(cut_off, expired)
    given(decider, *OPEN, expired).when(session.Expire(FAR_FUTURE_MS)).nothing()
    given(decider, *OPEN, expired).when(start(2)).refused(session.SessionClosed)
    given(decider, *OPEN, expired).when(MONEY).then(session.Settled(0, str(CAP), str(CAP - SPENT)))


def test_it_settles_when_its_escrow_is_closed_and_nothing_runs() -> None:
    closing = payment.CloseRequested("payer")
    settled = session.Settled(1, str(CAP), str(CAP - SPENT))
    run = (*OPEN, request_started(1), generation_ended(1), closing)
    state = given(decider, *run).when(MONEY).then(settled)
    assert state == session.Closed(opened_paid(), VERIFIED, ref(1), settled)
    given(decider, *run, settled).when(MONEY).nothing()
    given(decider, *OPEN, request_started(1), closing).when(MONEY).nothing()


def test_a_close_on_the_chain_closes_it_too() -> None:
    on_chain = payment.CloseRequested("on_chain")
    given(decider, *OPEN).when(MONEY).then(on_chain, session.Settled(0, str(CAP), str(CAP - SPENT)))
    given(decider, *OPEN, request_started(1)).when(MONEY).then(on_chain)


@pytest.mark.parametrize(("paid", "refund"), [(CAP - 1, 0), (CAP + 1, 0), (CAP, CAP + 1)])
def test_money_that_does_not_add_up_settles_nothing(paid: int, refund: int) -> None:
    unequal = payment.SettlePayment(str(paid), str(refund))
    given(decider, *OPEN).when(unequal).refused(payment.PaymentUnequal)


def test_a_reorg_takes_the_payment_back_and_it_may_come_again() -> None:
    state = given(decider, *OPEN).when(payment.RevertPayment(ref(1))).then(GONE)
    assert (state.settlement, state.closing) == (None, "payment_reverted")
    given(decider, *OPEN, GONE).when(payment.RevertPayment(ref(1))).nothing()
    given(decider, *OPEN, GONE).when(start(1)).refused(session.SessionClosed)
    again = payment.PaymentSettled(str(CAP), ref(2))
    given(decider, *OPEN, GONE).when(payment.ConfirmPayment(ref(2))).then(again)
    given(decider, *OPEN).when(payment.RevertPayment(ref(2))).nothing()
    given(decider, *OPEN, GONE).when(payment.FailPayment("voucher_expired")).then(NEVER)
    given(decider, *OPEN).when(payment.FailPayment("voucher_expired")).nothing()


def test_a_reorg_after_the_settlement_changes_what_it_came_to() -> None:
    settled = session.Settled(0, str(CAP), str(CAP - SPENT))
    done = (*OPEN, payment.CloseRequested("payer"), settled)
    later = payment.SettlePayment(str(CAP), str(CAP - SPENT - RATE))
    given(decider, *done).when(later).then(session.Settled(0, str(CAP), str(CAP - SPENT - RATE)))
    given(decider, *done).when(payment.RevertPayment(ref(1))).then(GONE)
    again = payment.PaymentSettled(str(CAP), ref(2))
    given(decider, *done, GONE).when(payment.ConfirmPayment(ref(2))).then(again)
    state = given(decider, *done, GONE).when(payment.FailPayment("voucher_expired")).then(NEVER)
    assert state == session.Closed(opened_paid(), VERIFIED)


def test_free_sessions_know_no_money() -> None:
    free = session.Opened(ulid(500), "key:1", "0", False, FAR_FUTURE_MS)
    for command in (
        payment.ConfirmPayment(ref(1)),
        payment.RevertPayment(ref(1)),
        payment.FailPayment("x"),
        payment.RequestClose("payer"),
        MONEY,
    ):
        given(decider, free).when(command).nothing()
        given(decider, free, session.Settled(0, "0", "0")).when(command).nothing()
