"""Receipts count when the ring's own nodes signed them about this request, and are missing otherwise."""

from typing import Any

import pytest
from msgspec.structs import replace

from services.receipts.check import About, checked, owed
from shard_runtime.messages import PlanMember
from shard_runtime.receipts import NodeReceipts, SegmentReceipt, Terms, sign_usage
from shard_runtime.signing import ReceiptKey
from tests.aggregates import ulid
from tests.signing_ring import Signed, sign

TERMS = Terms(31337, "0x" + "c0" * 20, 3, "0x" + "e5" * 20)
KEYS = [ReceiptKey(bytes([number]) * 32) for number in (1, 2, 3)]
NODES = [ulid(number) for number in (1, 2, 3)]
RING = list(zip(NODES, KEYS, strict=True))
ABOUT = About(
    TERMS,
    ulid(700),
    ulid(800),
    5,
    [PlanMember(node_id, "", key.address, n, n + 1) for n, (node_id, key) in enumerate(RING)],
)
TOKENS = 70
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def signed(**changes: Any) -> Signed:
    about: dict[str, Any] = {"terms": TERMS, "session_id": ulid(700), "request_id": ulid(800), "attempt": 5}
    return sign(RING, **(about | changes), prompt_ids=range(40), completion_ids=range(TOKENS))


def test_an_honest_ring_s_receipts_hold_in_whatever_order_they_come() -> None:
    receipts, usage = signed()
    assert [one.segment for one in receipts[0].receipts] == [1, 2, 3]
    found = checked(ABOUT, receipts[::-1], usage, TOKENS)
    assert (found.receipts, found.usage, found.missing) == (receipts, usage, ())


@pytest.mark.parametrize(
    "changes",
    [
        {"terms": replace(TERMS, epoch=4)},
        {"terms": replace(TERMS, escrow="0x" + "e6" * 20)},
        {"terms": replace(TERMS, coalition="0x" + "c1" * 20)},
        {"terms": replace(TERMS, chain_id=1)},
        {"request_id": ulid(801)},
        {"attempt": 4},
    ],
)
def test_what_is_signed_about_anything_else_is_missing(changes: dict[str, Any]) -> None:
    receipts, usage = signed(**changes)
    found = checked(ABOUT, receipts, usage, TOKENS)
    assert (found.receipts, found.usage, found.missing) == ((), None, tuple(NODES))


def test_an_account_of_another_session_is_none_and_the_receipts_stand() -> None:
    receipts, usage = signed(session_id=ulid(701))
    found = checked(ABOUT, receipts, usage, TOKENS)
    assert (found.receipts, found.usage, found.missing) == (receipts, None, (NODES[0],))


def _altered(receipt: SegmentReceipt) -> list[SegmentReceipt]:
    r, s, v = receipt.signature[:64], int(receipt.signature[64:128], 16), int(receipt.signature[128:], 16)
    other_form = f"{r}{ORDER - s:064x}{55 - v:02x}"
    return [
        replace(receipt, output_hash="0" * 64),
        replace(receipt, input_hash="0" * 64),
        replace(receipt, segment=9),
        replace(receipt, signature="0" * 130),
        replace(receipt, signature="f" * 130),
        replace(receipt, signature=other_form),
        replace(receipt, signature=f"{receipt.signature[:128]}{v - 27:02x}"),
    ]


def test_one_receipt_that_does_not_hold_takes_its_node_s_with_it_and_nobody_else_s() -> None:
    receipts, usage = signed()
    middle = receipts[1]
    for bad in _altered(middle.receipts[-1]):
        said = (receipts[0], NodeReceipts(middle.node_id, (*middle.receipts[:-1], bad)), receipts[2])
        found = checked(ABOUT, said, usage, TOKENS)
        assert (found.receipts, found.usage) == ((receipts[0], receipts[2]), usage)
        assert found.missing == (NODES[1],)


def test_segments_stand_once_and_in_ascending_order() -> None:
    receipts, usage = signed()
    last = receipts[2]
    for order in (last.receipts[::-1], (*last.receipts, last.receipts[-1]), ()):
        said = (*receipts[:2], NodeReceipts(last.node_id, order))
        assert checked(ABOUT, said, usage, TOKENS).missing == (NODES[2],)


def test_the_account_names_all_of_the_entry_s_receipts() -> None:
    receipts, usage = signed()
    fewer = (NodeReceipts(NODES[0], receipts[0].receipts[:-1]), *receipts[1:])
    found = checked(ABOUT, fewer, usage, TOKENS)
    assert (found.receipts, found.usage, found.missing) == (fewer, None, (NODES[0],))
    assert checked(ABOUT, receipts[1:], usage, TOKENS).missing == (NODES[0],)


def test_the_account_is_the_entry_s_own() -> None:
    receipts, usage = signed()
    by_another = sign_usage(KEYS[1], TERMS, ABOUT.session_id, ABOUT.request_id, 5, usage)
    assert checked(ABOUT, receipts, by_another, TOKENS).usage is None
    assert checked(ABOUT, receipts, replace(usage, completion_tokens=TOKENS - 1), TOKENS).usage is None


def test_strangers_are_left_out_and_who_computed_nothing_is_not_missing() -> None:
    receipts, usage = signed()
    stranger = NodeReceipts(ulid(9), receipts[0].receipts)
    assert checked(ABOUT, (stranger, *receipts), usage, TOKENS).receipts == receipts
    assert checked(ABOUT, (stranger,), None, owed("cancelled", 0)).missing == ()
    assert checked(ABOUT, (stranger,), None, owed("cancelled", 1)).missing == tuple(NODES)


def test_of_a_ring_that_broke_nobody_s_receipts_are_due() -> None:
    receipts, usage = signed()
    found = checked(ABOUT, receipts[:1], usage, owed("error", TOKENS))
    assert (found.receipts, found.usage, found.missing) == (receipts[:1], usage, ())
