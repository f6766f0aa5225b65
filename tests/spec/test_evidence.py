"""What follows from evidence, byte by byte: who proves a silence or a lie, and what proves nothing."""

import json
from typing import Any

import pytest
from msgspec.structs import replace

from events.breach import Breach
from events.evidence import Dissent, Probe, assembled, canonical, hash_of, read
from events.probing import moments, rhythm
from services.typed_data import recovered_signer, typed_digest
from services.verifier.attesting import breach_typed
from services.verifier.judge import judge, judge_case
from tests.aggregates import digest, ulid
from tests.attesting import KEYS, NODE, SLASH, case, evidence, receipt, silent, statement, vote

CASE = case()
LIE = case(kind="equivocation", deterministic=True)


def dissent(body: bytes) -> str:
    found = judge(body)
    assert isinstance(found, Dissent), found
    return found.reason


def with_probes(*probes: tuple[Probe, ...]) -> bytes:
    said = [statement(key, CASE, each) for key, each in zip(KEYS, probes, strict=False)]
    return assembled(SLASH, CASE, tuple(said))


def test_a_quorum_of_silent_probes_is_a_breach_of_the_reported_case() -> None:
    body = evidence(CASE, *KEYS[:3])
    found = judge(body)
    assert found == Breach(
        CASE.escrow, CASE.operator, "stall", CASE.most_micro, hash_of(body), 9, 400, CASE.votes_until_unix_s
    )
    assert judge_case(body, SLASH, CASE) == found
    assert judge_case(body, SLASH, case(most_micro=1)) == Dissent("evidence_of_another_case")
    assert judge_case(body, ulid(2), CASE) == Dissent("evidence_of_another_case")


def test_evidence_is_the_same_bytes_whoever_assembles_it() -> None:
    said = [statement(key, CASE, silent(CASE)) for key in KEYS[:3]]
    assert assembled(SLASH, CASE, tuple(said)) == assembled(SLASH, CASE, tuple(reversed(said)))
    body = evidence(CASE, *KEYS[:3])
    assert b" " not in body
    json.loads(body, parse_float=pytest.fail)
    assert body.startswith(b'{"answer":null,"case":{"at_unix_ms":')


@pytest.mark.parametrize("place", range(0, 4000, 97))
def test_one_altered_byte_is_never_the_same_breach(place: int) -> None:
    body = bytearray(evidence(CASE, *KEYS[:3]))
    body[place % len(body)] ^= 1
    found = judge_case(bytes(body), SLASH, CASE)
    assert isinstance(found, Dissent)


def test_other_spellings_of_the_same_evidence_are_refused() -> None:
    body = evidence(CASE, *KEYS[:3])
    assert dissent(body + b" ") == "evidence_not_canonical"
    said = read(body)
    assert not isinstance(said, Dissent)
    swapped = replace(said, statements=tuple(reversed(said.statements)))
    assert dissent(canonical(swapped)) == "evidence_not_canonical"
    assert dissent(b"") == "evidence_malformed"
    assert dissent(b"[" * 100_000) == "evidence_malformed"
    assert dissent(b"\xff\xfe") == "evidence_malformed"


def test_fewer_vantage_points_than_the_quorum_show_nothing() -> None:
    assert dissent(evidence(CASE, *KEYS[:2])) == "vantage_points_missing"
    assert dissent(evidence(CASE, KEYS[0], KEYS[1], KEYS[1])) == "statement_foreign"
    accused = case(operator=KEYS[0].address)
    assert dissent(evidence(accused, *KEYS[:3])) == "statement_foreign"
    assert dissent(evidence(CASE, KEYS[0], KEYS[1], NODE)) == "statement_foreign"


def test_a_statement_counts_only_under_its_own_signature() -> None:
    said = [statement(key, CASE, silent(CASE)) for key in KEYS[:3]]
    forged = replace(said[2], attestor=KEYS[3].address)
    assert dissent(assembled(SLASH, CASE, (*said[:2], forged))) == "statement_forged"
    other = statement(KEYS[2], CASE, silent(CASE), slash_id=ulid(3))
    assert dissent(assembled(SLASH, CASE, (*said[:2], other))) == "statement_foreign"


def test_probes_must_be_failed_dense_long_enough_and_in_the_window() -> None:
    good = silent(CASE)
    cases: list[tuple[str, tuple[Probe, ...]]] = [
        ("probe_answered", (*good[:-1], replace(good[-1], answered=True))),
        ("probes_too_few", good[:2]),
        ("probes_too_few", (good[0],) * 9),
        (
            "probes_too_many",
            tuple(Probe(one.sent_unix_ms, f"{n:064x}", False) for n, one in enumerate(good * 3)),
        ),
        ("probes_too_sparse", (good[0], good[4], good[8])),
        ("probes_too_sparse", tuple(reversed(good))),
        ("probes_too_short", good[:-1]),
        ("probes_outside_window", tuple(replace(one, sent_unix_ms=one.sent_unix_ms - 9) for one in good)),
        (
            "probes_outside_window",
            tuple(replace(one, sent_unix_ms=one.sent_unix_ms + 250_000) for one in good),
        ),
    ]
    for reason, probes in cases:
        assert dissent(with_probes(good, good, probes)) == reason


def test_the_schedule_spans_the_service_level_and_ends_in_the_window() -> None:
    for least, window_s in ((3, 600), (3, 12), (1, 60), (10, 600), (2, 5)):
        of = case(least_probes=least, longest_probe_window_s=window_s)
        beat = rhythm(least, window_s)
        sent = moments(of, of.at_unix_ms - 50)
        assert len(sent) >= least
        assert sent[0] == of.at_unix_ms
        assert sent[-1] - sent[0] == beat.sla_ms
        assert sent[-1] + beat.answer_ms <= of.at_unix_ms + window_s * 1000
        assert moments(of, of.at_unix_ms + window_s * 1000) == ()
        body = evidence(of, *KEYS[:3])
        assert isinstance(judge(body), Breach)


def test_two_receipts_for_one_input_are_a_lie() -> None:
    body = assembled(SLASH, LIE, receipts=(receipt(LIE, 8), receipt(LIE, 7)))
    found = judge(body)
    assert isinstance(found, Breach)
    assert (found.kind, found.failed_probes) == ("equivocation", 0)


@pytest.mark.parametrize(
    ("reason", "of", "receipts"),
    [
        ("receipts_agree", LIE, (receipt(LIE, 7), receipt(LIE, 7))),
        ("receipts_agree", LIE, (receipt(LIE, 7),)),
        ("receipts_agree", LIE, (receipt(LIE, 7), receipt(LIE, 8, attempt=1))),
        ("receipts_agree", LIE, (receipt(LIE, 7), receipt(LIE, 8, input_hash="0x" + digest(9)))),
        ("receipts_agree", LIE, tuple(receipt(LIE, out, session="0x" + "11" * 20) for out in (7, 8))),
        ("receipt_forged", LIE, (receipt(LIE, 7), receipt(LIE, 8, key=KEYS[0]))),
        ("not_deterministic", case(kind="equivocation"), (receipt(LIE, 7), receipt(LIE, 8))),
    ],
)
def test_receipts_that_prove_no_lie(reason: str, of: Any, receipts: Any) -> None:
    assert dissent(assembled(SLASH, of, receipts=receipts)) == reason


def test_a_vote_is_a_signature_over_the_contracts_own_digest() -> None:
    found = judge(evidence(CASE, *KEYS[:3]))
    assert isinstance(found, Breach)
    said = vote(KEYS[0], CASE, found, found.evidence_hash)
    assert recovered_signer(breach_typed(CASE, found), said.signature) == KEYS[0].address
    assert len(typed_digest(breach_typed(CASE, found))) == 32
