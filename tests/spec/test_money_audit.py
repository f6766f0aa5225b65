"""What an audit of money finds: nothing in true books, and each of many small lies, with its session."""

import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from events import payment, session, stream
from services.auditor.chain_log import TOPICS, ChainLogUnreadable, decoded
from services.auditor.money import MoneyReport, audit_money
from tests.money import OPERATORS
from tests.money_evidence import CAP, Books, topic

SEEDS = range(10)


def books(seed: int = 1) -> Books:
    made = Books(seed)
    for number in range(100, 104):
        made.session(number)
    made.session(110, end=False)
    return made


def audited(made: Books) -> MoneyReport:
    return audit_money(made.log, made.evidence(), made.ledger)


@pytest.mark.parametrize("seed", SEEDS)
def test_true_books_are_sound_to_the_wei(seed: int) -> None:
    made = books(seed)
    report = audited(made)
    assert report.findings == ()
    assert report.sound
    assert report.wei_drift == "0"
    assert (report.sessions, report.settled, report.operators) == (5, 4, 2)
    assert int(report.usdc_in_wei) == 5 * CAP
    assert int(report.usdc_out_wei) == sum(made.totals.values()) + sum(
        int(line.refund_wei) for line in report.lines
    )
    for line in report.lines:
        if line.state == "settled":
            assert int(line.voucher_wei) == int(line.operators_wei) + int(line.refund_wei)


def test_a_log_without_paid_sessions_is_a_failure() -> None:
    empty = Books(1)
    report = audited(empty)
    assert report.findings == ()
    assert report.empty == ("sessions", "seconds", "operators", "usdc_in", "usdc_out")
    assert not report.sound


def change(made: Books, key: str, kind: type, edit: Callable[[Any], Any], which: int = 0) -> None:
    """Edit (or with None remove) one event of the session in the log."""
    places = [
        place
        for place, item in enumerate(made.log)
        if item.aggregate_id == key and isinstance(item.event, kind) and edit(item.event) != item.event
    ]
    place = places[which % len(places)]
    event = edit(made.log[place].event)
    if event is None:
        del made.log[place]
    else:
        made.log[place] = msgspec.structs.replace(made.log[place], event=event)


def shift_share(fact: Any, wei: int) -> Any:
    if not fact.paid:
        return fact
    first, *rest = fact.paid
    first = msgspec.structs.replace(first, wei=str(int(first.wei) + wei))
    return msgspec.structs.replace(fact, paid=(first, *rest))


def swap_operators(fact: Any) -> Any:
    if len(fact.paid) != 2:
        return fact
    one, two = fact.paid
    swapped = (
        msgspec.structs.replace(one, account=two.account),
        msgspec.structs.replace(two, account=one.account),
    )
    return msgspec.structs.replace(fact, paid=swapped)


def later(fact: Any) -> Any:
    at = msgspec.structs.replace(fact.at, block_unix_s=fact.at.block_unix_s + 1)
    return msgspec.structs.replace(fact, at=at)


def with_refund(event: Any, wei: int) -> Any:
    if event.refund_wei == "0":
        return event
    return msgspec.structs.replace(event, refund_wei=str(int(event.refund_wei) + wei))


def forget(event: Any) -> None:
    return None


def other_rate(fact: Any) -> Any:
    return msgspec.structs.replace(fact, rate_wei_per_s=str(int(fact.rate_wei_per_s) + 1))


def other_cap(voucher: Any) -> Any:
    terms = msgspec.structs.replace(voucher.terms, cap_wei=str(CAP - 1))
    return msgspec.structs.replace(voucher, terms=terms)


def other_tx(settled: Any) -> Any:
    return msgspec.structs.replace(settled, at=msgspec.structs.replace(settled.at, tx="0x" + "ab" * 32))


def drop_entry(made: Books, name: str, escrow: str) -> None:
    """The last entry of a kind that the escrow itself left."""
    found = [raw for raw in made.entries if raw.topics[0] == TOPICS[name] and raw.address == escrow]
    made.entries.remove(found[-1])


def spoil_one_unit(made: Books, key: str) -> None:
    """One unit more for one operator, from the beginning: every share of every session is another."""
    for place, raw in enumerate(made.entries):
        if raw.topics[0] == TOPICS["MemberUnitsUpdated"]:
            units = int.from_bytes(raw.data[32:], "big") + 1
            made.entries[place] = msgspec.structs.replace(raw, data=raw.data[:32] + units.to_bytes(32, "big"))
            return


def spoil_ledger(made: Books, key: str) -> None:
    made.ledger[key, "streamed", OPERATORS[0]] += 1


def escrow_of(made: Books, key: str) -> str:
    return next(
        item.event.terms.escrow
        for item in made.log
        if item.aggregate_id == key and isinstance(item.event, payment.PaymentVerified)
    )


def rename_session(made: Books, key: str) -> None:
    made.log[:] = [item for item in made.log if item.aggregate_id != key]


CORRUPTIONS: dict[str, Callable[[Books, str], None]] = {
    "one wei of an operator's share": lambda made, key: change(
        made, key, stream.Stopped, lambda fact: shift_share(fact, 1)
    ),
    "one second": lambda made, key: change(made, key, stream.Started, later),
    "one unit": spoil_one_unit,
    "a swapped operator": lambda made, key: change(made, key, stream.Fact, swap_operators),  # type: ignore[arg-type]
    "a missing stop": lambda made, key: (
        change(made, key, stream.Stopped, lambda fact: None if fact.closed else fact)
        if any(
            isinstance(item.event, stream.Stopped) and not item.event.closed and item.aggregate_id == key
            for item in made.log
        )
        else change(made, key, stream.Stopped, forget)
    ),
    "a missing start": lambda made, key: change(made, key, stream.Started, forget),
    "one wei of the refund": lambda made, key: change(
        made, key, stream.Stopped, lambda fact: with_refund(fact, -1)
    ),
    "one wei of the settlement": lambda made, key: change(
        made, key, session.Settled, lambda event: with_refund(event, 1)
    ),
    "one wei per second": lambda made, key: change(made, key, stream.Started, other_rate),
    "another voucher": lambda made, key: change(made, key, payment.PaymentVerified, other_cap),
    "a settlement that was never made": lambda made, key: change(made, key, payment.PaymentSettled, other_tx),
    "a refund that never arrived": lambda made, key: made.entries.remove(
        next(
            raw
            for raw in made.entries
            if raw.topics[0] == topic("Transfer(address,address,uint256)")
            and raw.tx == next(c.at.tx for c in _closings(made, key))
        )
    ),
    "an escrow that was not closed": lambda made, key: drop_entry(made, "Closed", escrow_of(made, key)),
    "one wei in the read model": spoil_ledger,
}


def _closings(made: Books, key: str) -> list[Any]:
    return [
        item.event
        for item in made.log
        if item.aggregate_id == key and isinstance(item.event, stream.Stopped) and item.event.closed
    ]


@pytest.mark.parametrize("name", sorted(CORRUPTIONS))
def test_each_small_lie_is_found_and_names_its_session(name: str) -> None:
    for seed in SEEDS:
        made = books(seed)
        key = random.Random(seed).choice(made.ids[:4])
        CORRUPTIONS[name](made, key)
        ledger = made.ledger if name == "one wei in the read model" else None
        report = audit_money(made.log, made.evidence(), ledger)
        assert not report.sound
        assert key in {finding.session for finding in report.findings}
        if name != "one unit":
            assert {finding.session for finding in report.findings} <= {key, ""}
        if "wei" in name:
            assert int(report.wei_drift) > 0


def test_a_session_that_the_log_hides_is_named_by_its_escrow() -> None:
    made = books()
    escrow = escrow_of(made, made.ids[0])
    rename_session(made, made.ids[0])
    found = audit_money(made.log, made.evidence())
    assert {(item.session, item.code) for item in found.findings} == {(escrow, "session_unknown")}


def test_a_session_that_the_chain_does_not_have_is_named() -> None:
    made = books()
    escrow = escrow_of(made, made.ids[0])
    made.entries[:] = [
        raw
        for raw in made.entries
        if raw.address != escrow
        and not (raw.topics[0] == TOPICS["SessionDeployed"] and escrow[2:] in raw.topics[1].hex())
    ]
    assert (made.ids[0], "session_missing") in {(f.session, f.code) for f in audited(made).findings}


def test_a_stream_left_open_past_its_hard_stop_is_named() -> None:
    made = books()
    late = made.evidence().head_unix_s + 10_000
    found = audit_money(made.log, made.evidence(head_unix_s=late)).findings
    assert (made.ids[4], "left_open") in {(item.session, item.code) for item in found}


def test_an_operators_total_that_the_pool_denies_is_found() -> None:
    made = books()
    made.totals[next(iter(made.totals))] -= 1
    (found,) = audited(made).findings
    assert (found.code, found.wei) == ("operator_total", "1")


def test_a_fact_that_a_reorg_took_back_does_not_count() -> None:
    made = books()
    key = made.ids[0]
    ghost = stream.Started(1, "5" + "0" * 13, 1, "0x" + "9d" * 20, 9, (), "0", _ghost_ref(made, key))
    made.tell("stream", key, ghost)
    assert {item.code for item in audited(made).findings} == {"fact_unknown"}
    made.tell("stream", key, stream.Reverted((), "0", "0", ghost.at))
    assert audited(made).findings == ()


def _ghost_ref(made: Books, key: str) -> Any:
    (closing,) = _closings(made, key)
    return msgspec.structs.replace(closing.at, tx="0x" + "77" * 32)


def test_foreign_and_broken_entries() -> None:
    made = books()
    foreign = msgspec.structs.replace(
        made.entries[-1], topics=(topic("Nothing()"),), address="0x" + "11" * 20
    )
    assert audit_money(made.log, made.evidence(entries=(*made.entries, foreign))).findings == ()
    broken = msgspec.structs.replace(made.entries[-1], data=b"\x01")
    with pytest.raises(ChainLogUnreadable):
        list(decoded([broken]))


def test_the_order_in_which_a_node_lists_entries_is_no_matter() -> None:
    made = books()
    random.Random(5).shuffle(made.entries)
    assert audited(made).findings == ()
