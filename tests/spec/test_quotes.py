"""What a voucher is to cost, and how many requests at once it has deposits for."""

import pytest

from services.gateway.quotes import GRACE_S, LEAST_S, LOCKED_S, MOST_CONCURRENT, Wanted, quote_of

RATE = 10**12
"""One micro-USDC a second."""


def wanted(slots: int, budget_micro: int | None = None, seconds: int = 1200) -> Wanted:
    return Wanted("pool", "0x" + "cc" * 20, RATE, slots, 900, seconds, budget_micro)


def test_a_voucher_covers_the_seconds_and_the_deposit() -> None:
    quote = quote_of(wanted(slots=4), "0x" + "aa" * 20, 1, 0)
    assert quote.cap_micro == 1200 + LOCKED_S
    assert quote_of(wanted(slots=4), "0x" + "aa" * 20, 10_000, 0).cap_micro == 10_000


@pytest.mark.parametrize(
    ("slots", "deposits", "at_once"), [(4, 2, 2), (4, 9, 4), (99, 99, MOST_CONCURRENT), (4, 1, 1), (4, 0, 1)]
)
def test_no_more_requests_at_once_than_the_money_can_start(slots: int, deposits: int, at_once: int) -> None:
    budget = max(1, deposits * (LOCKED_S + LEAST_S))
    terms = quote_of(wanted(slots, budget), "0x" + "aa" * 20, 1, 0).terms
    assert int(terms.max_concurrent) == at_once
    assert terms.cap == terms.min_cap == str(budget)


def test_a_session_ends_long_before_its_escrow_can_no_longer_be_opened() -> None:
    quote = quote_of(wanted(slots=4), "0x" + "aa" * 20, 1, 1000)
    assert quote.close_by_unix_ms == (1000 + 900) * 1000
    assert int(quote.terms.open_by) == int(quote.terms.close_by) == 1000 + 900 + GRACE_S
