"""Receipts: exact values, what they bind, and the chain from each stage's outputs to the next inputs."""

import hashlib
import struct
from dataclasses import dataclass
from itertools import pairwise

import msgspec
import pytest
from eth_account import Account
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from events.evidence import SignedReceipt
from services.typed_data import typed_digest
from services.verifier.attesting import receipt_typed, signed_by
from shard_runtime.messages import Sampling
from shard_runtime.receipts import (
    Hashed,
    NodeReceipts,
    SegmentHashes,
    Terms,
    Usage,
    exit_input_hash,
    hash_of,
    receipt_digest,
    receipts_root,
    request_hash,
    segment_of,
    sign_receipt,
    sign_usage,
    token_bytes,
    usage_statement,
)
from shard_runtime.signing import ReceiptKey, signer_of
from tests.slashing import COALITION, ESCROW, reported

SECRET = b"\x0c" * 32
KEY = ReceiptKey(SECRET)
TERMS = Terms(31337, COALITION, 3, ESCROW)
SAMPLING = Sampling(seed=2**64 - 1, temperature=0.5)


def sha(said: bytes) -> bytes:
    return hashlib.sha256(said).digest()


def test_a_segments_hashes_are_these_and_no_others() -> None:
    hashes = SegmentHashes()
    hashes.add(0, 30, b"prompt", b"first")
    hashes.add(30, 1, b"second in", b"second out")  # leads to position 31: the last one of segment 0
    hashes.add(31, 1, b"third in", b"third out")
    ins = sha(struct.pack("<II", 0, 30) + sha(b"prompt") + struct.pack("<II", 30, 1) + sha(b"second in"))
    outs = sha(struct.pack("<II", 0, 30) + sha(b"first") + struct.pack("<II", 30, 1) + sha(b"second out"))
    last_in = sha(ins + struct.pack("<II", 31, 1) + sha(b"third in"))
    last_out = sha(outs + struct.pack("<II", 31, 1) + sha(b"third out"))
    assert hashes.first_step == 0
    assert hashes.segments() == (
        Hashed(0, 2, ins.hex(), outs.hex()),
        Hashed(1, 1, last_in.hex(), last_out.hex()),
    )


def test_the_exits_inputs_begin_with_how_it_was_to_pick() -> None:
    hashes = SegmentHashes(SAMPLING)
    hashes.add(0, 2, b"in", token_bytes((7,)))
    said = sha(b'{"seed":18446744073709551615,"temperature":0.5}')
    inputs = sha(said + sha(struct.pack("<II", 0, 2) + sha(b"in")))
    outputs = sha(struct.pack("<II", 0, 2) + sha(b"\7" + bytes(7)))
    assert hashes.segments() == (Hashed(0, 1, inputs.hex(), outputs.hex()),)


def test_a_receipt_is_what_attestors_and_the_contract_take() -> None:
    hashed = Hashed(2, 32, "0a" * 32, "0b" * 32)
    made = sign_receipt(KEY, TERMS, "01jabcdefghjkmnpqrstvwxyz0", 5, hashed)
    case = reported(coalition=COALITION, escrow=ESCROW, receipt_key=KEY.address)
    as_evidence = SignedReceipt(
        TERMS.epoch, TERMS.escrow, "0x" + request_hash("01jabcdefghjkmnpqrstvwxyz0").hex(), 2, 5,
        "0x" + made.input_hash, "0x" + made.output_hash, made.signature,
    )  # fmt: skip
    typed = receipt_typed(case, as_evidence)
    assert typed_digest(typed) == receipt_digest(TERMS, "01jabcdefghjkmnpqrstvwxyz0", 5, made)
    assert signed_by(Account.from_key(SECRET).address, typed, made.signature)
    assert not signed_by(KEY.address, receipt_typed(case, replace(as_evidence, attempt=6)), made.signature)


@pytest.mark.parametrize("field", [field for field in Usage.__struct_fields__ if field != "signature"])
def test_an_account_is_signed_in_every_field(field: str) -> None:
    said = Usage(5, 9, 2, 0, "0c" * 32, "")
    usage = sign_usage(KEY, TERMS, "session", "request", 4, said)
    assert signer_of(usage_statement(TERMS, "session", "request", 4, usage), usage.signature) == KEY.address
    changed = replace(usage, **{field: "0d" * 32 if field == "own_receipts" else 77})
    for statement in (
        usage_statement(TERMS, "session", "request", 4, changed),
        usage_statement(TERMS, "session", "request", 5, usage),
        usage_statement(replace(TERMS, epoch=4), "session", "request", 4, usage),
    ):
        assert signer_of(statement, usage.signature) != KEY.address


def test_the_root_tells_whose_receipts_and_which_usage() -> None:
    mine = NodeReceipts("a", (sign_receipt(KEY, TERMS, "r", 1, Hashed(0, 1, "00" * 32, "11" * 32)),))
    usage = sign_usage(KEY, TERMS, "s", "r", 1, Usage(1, 1, 0, 0, hash_of(mine), ""))
    roots = {
        receipts_root(told, said) for told in ((), (mine,), (replace(mine, node_id="b"),))
        for said in (None, usage)
    }  # fmt: skip
    assert len(roots) == 6


@pytest.mark.parametrize(
    "flaw",
    [{"escrow": "e5" * 20}, {"coalition": "0x12"}, {"chain_id": 0}, {"epoch": -1}, {"other": 1}],
)
def test_terms_that_no_contract_could_have_are_refused(flaw: dict[str, object]) -> None:
    given = msgspec.to_builtins(TERMS)
    assert msgspec.convert(given, Terms) == TERMS
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(given | flaw, Terms)


@dataclass(frozen=True)
class Pass:
    """One attempt's steps: the first one's length, the number of steps, where it began."""

    at: int
    first: int
    steps: int

    def shapes(self) -> list[tuple[int, int]]:
        later = range(self.at + self.first, self.at + self.first + self.steps - 1)
        return [(self.at, self.first), *((step, 1) for step in later)]


PASSES = st.one_of(
    st.builds(Pass, st.just(0), st.integers(1, 200), st.integers(1, 100)),
    st.builds(Pass, st.integers(1, 200), st.just(1), st.integers(1, 100)),  # behind KV that moved
)


def ring_of(attempt: Pass, stages: int, spoiled: tuple[int, int] | None = None) -> list[SegmentHashes]:
    """Stages that pass on bytes; `spoiled` (stage, number of the step) gives other bytes than it should."""
    made = [SegmentHashes(SAMPLING if stage == stages - 1 else None) for stage in range(stages)]
    for number, (step, n) in enumerate(attempt.shapes()):
        payload = token_bytes(tuple(range(step, step + n)))
        for stage, hashes in enumerate(made):
            out = sha(payload + bytes([stage])) + bytes([spoiled == (stage, number)])
            hashes.add(step, n, payload, out)
            payload = out
    return made


@given(attempt=PASSES, stages=st.integers(1, 4))
def test_honest_stages_chain_and_cover_every_step_once(attempt: Pass, stages: int) -> None:
    told = [hashes.segments() for hashes in ring_of(attempt, stages)]
    assert told == [hashes.segments() for hashes in ring_of(attempt, stages)]
    for segments in told:
        numbers = [one.segment for one in segments]
        assert numbers == sorted(set(numbers))
        assert numbers[0] == segment_of(attempt.at, attempt.first)
        assert all(0 < one.steps <= 32 for one in segments)
        assert sum(one.steps for one in segments) == attempt.steps
    for before, after in pairwise(told):
        is_exit = after is told[-1]
        for out, taken in zip(before, after, strict=True):
            expected = exit_input_hash(SAMPLING, out.output_hash) if is_exit else out.output_hash
            assert taken.input_hash == expected


@given(attempt=PASSES, stages=st.integers(1, 4), data=st.data())
def test_who_spoils_a_step_is_the_only_one_with_these_inputs_and_other_outputs(
    attempt: Pass, stages: int, data: st.DataObject
) -> None:
    """In every later segment as well: another's spoilt KV is never held against an honest stage."""
    liar, number = data.draw(st.integers(0, stages - 1)), data.draw(st.integers(0, attempt.steps - 1))
    true, told = ring_of(attempt, stages), ring_of(attempt, stages, (liar, number))
    spoilt_from = segment_of(*attempt.shapes()[number])
    for stage in range(stages):
        for right, said in zip(true[stage].segments(), told[stage].segments(), strict=True):
            same_in = right.input_hash == said.input_hash
            same_out = right.output_hash == said.output_hash
            spoilt = right.segment >= spoilt_from
            assert same_in == (stage <= liar or not spoilt)
            assert same_out == (stage < liar or not spoilt)


@given(attempt=PASSES, cut=st.integers(0, 99))
def test_what_was_read_in_between_changes_nothing(attempt: Pass, cut: int) -> None:
    whole, looked_at = SegmentHashes(), SegmentHashes()
    for number, (step, n) in enumerate(attempt.shapes()):
        whole.add(step, n, bytes([number]), b"")
        looked_at.add(step, n, bytes([number]), b"")
        if number == cut:
            before = looked_at.segments()
            assert sum(one.steps for one in before) == number + 1
    assert whole.segments() == looked_at.segments()
