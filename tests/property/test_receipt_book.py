"""A node's word on one input is given once, survives a crash, and takes a bounded place."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from shard_runtime.compute import ComputeThread
from shard_runtime.messages import PlanMember, Sampling
from shard_runtime.plan import Plan
from shard_runtime.receipt_book import ReceiptBook
from shard_runtime.receipting import Receipting, Told
from shard_runtime.receipts import Hashed, Terms, receipt_digest
from shard_runtime.signing import ReceiptKey, digest_signer
from tests.slashing import COALITION, ESCROW

KEY = ReceiptKey(b"\x0c" * 32)
TERMS = Terms(31337, COALITION, 3, ESCROW)
FIRST = Hashed(0, 9, "01" * 32, "02" * 32)
SECOND = Hashed(1, 32, "03" * 32, "04" * 32)


def lines(directory: Path) -> int:
    return len((directory / "receipts.jsonl").read_bytes().splitlines())


def test_what_was_signed_is_known_after_a_crash_and_signed_again_just_so(tmp_path: Path) -> None:
    signed = ReceiptBook(tmp_path, KEY).sign("pool", 2, "request", TERMS, (FIRST, SECOND))
    assert [(one.segment, one.steps) for one in signed] == [(0, 9), (1, 32)]
    for one in signed:
        digest = receipt_digest(TERMS, "request", 2, one)
        assert digest_signer(digest, one.signature) == KEY.address
    with (tmp_path / "receipts.jsonl").open("ab") as file:
        file.write(b'{"pool_id":"po')  # the crash
    again = ReceiptBook(tmp_path, KEY)
    assert again.of("pool", 2, "request") == signed
    assert again.of("pool", 3, "request") == again.of("other", 2, "request") == ()
    assert again.sign("pool", 2, "request", TERMS, (FIRST, SECOND)) == signed
    assert ReceiptBook(tmp_path, KEY).of("pool", 2, "request") == signed


@pytest.mark.parametrize("pool_id", ["pool", "another"])
def test_no_second_output_is_ever_signed_for_an_input(tmp_path: Path, pool_id: str) -> None:
    """Not even in another pool: the receipt that a contract reads names none."""
    book = ReceiptBook(tmp_path, KEY)
    signed = book.sign("pool", 2, "request", TERMS, (FIRST, SECOND))
    other = replace(SECOND, output_hash="05" * 32)
    assert book.sign(pool_id, 2, "request", TERMS, (FIRST, other)) == ()
    assert ReceiptBook(tmp_path, KEY).sign(pool_id, 2, "request", TERMS, (other,)) == ()
    assert book.of("pool", 2, "request") == signed
    # Of another attempt, input or session the output may differ.
    assert book.sign(pool_id, 3, "request", TERMS, (other,))
    assert book.sign(pool_id, 2, "request", TERMS, (replace(other, input_hash="06" * 32),))
    assert book.sign(pool_id, 2, "other", TERMS, (other,))


def test_the_newest_are_kept_and_the_file_stays_short(tmp_path: Path) -> None:
    book = ReceiptBook(tmp_path, KEY, keep=4)
    for number in range(30):
        assert book.sign("pool", 1, f"request {number}", TERMS, (FIRST,))
        assert lines(tmp_path) <= 12
    for kept in (book, ReceiptBook(tmp_path, KEY, keep=4)):
        assert [number for number in range(30) if kept.of("pool", 1, f"request {number}")] == [26, 27, 28, 29]


@pytest.mark.asyncio
async def test_an_end_that_is_asked_for_again_is_answered_alike(tmp_path: Path) -> None:
    """While it is being signed: once. After a restart, or when nothing is known of it: from the book."""
    compute = ComputeThread(asyncio.get_running_loop())
    members = (PlanMember("a", "0a" * 32, KEY.address, 0, 2), PlanMember("b", "0b" * 32, KEY.address, 2, 4))
    plan = Plan("pool", 7, members, 1)
    receipting = Receipting(plan, compute, ReceiptBook(tmp_path, KEY))
    ledger = receipting.ledger(TERMS, Sampling(seed=1))
    assert ledger is not None
    assert receipting.ledger(None, Sampling(seed=1)) is None
    ledger.hashes.add(0, 5, b"in", b"out")
    heard: list[Told] = []
    first: asyncio.Future[Told] = asyncio.get_running_loop().create_future()
    receipting.tell("request", ledger, first.set_result)
    receipting.tell("request", ledger, heard.append)
    heard.insert(0, await first)
    assert len(heard) == 1
    assert [one.steps for one in heard[0]] == [1]
    restarted = Receipting(plan, compute, ReceiptBook(tmp_path, KEY))
    restarted.tell("request", None, heard.append)
    restarted.tell("unheard of", None, heard.append)
    assert heard[1:] == [heard[0], ()]
    compute.close()
