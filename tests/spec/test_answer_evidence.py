"""What signed receipts prove of an output and of a meter, and what they don't, whoever says it."""

from typing import Any

import pytest
from msgspec.structs import replace

from events.breach import Breach
from events.evidence import assembled, hash_of, read
from services.verifier.judge import judge
from services.verifier.outputs import Open
from shard_runtime.recomputed import Rerun
from tests.aggregates import digest, ulid
from tests.attesting import KEYS, SLASH, evidence, receipt
from tests.kept_answers import (
    CONTEXT,
    NODES,
    PROMPT,
    SAMPLING,
    WEIGHTS,
    account,
    accused,
    answered,
    kept,
    reason,
    sampling_text,
    verdict,
)

HONEST = answered()
ENTRY, EXIT = 0, 1
USAGE = kept(HONEST, ENTRY).usage
assert USAGE is not None


@pytest.mark.parametrize("number", [ENTRY, EXIT])
def test_a_signed_output_that_the_layers_do_not_give_is_a_breach_of_its_node_alone(number: int) -> None:
    lies = (77, None) if number == ENTRY else (None, 77)
    told = answered(lies=lies)
    of = accused(number, most_micro=70)
    found = verdict(of, kept(told, number))
    assert isinstance(found, Breach)
    assert (found.kind, found.amount_micro, found.failed_probes) == ("wrong_output", 70, 0)
    assert found.evidence_hash == hash_of(assembled(SLASH, of, answer=kept(told, number)))
    other = "input_differs" if number == ENTRY else "receipts_agree"
    assert reason(accused(1 - number), kept(told, 1 - number)) == other


@pytest.mark.parametrize("number", [ENTRY, EXIT])
def test_one_receipt_is_enough_because_it_says_what_went_in_before(number: int) -> None:
    told = answered(lies=(77, None) if number == ENTRY else (None, 77))
    receipts = kept(told, number).receipts
    found = [reason(accused(number), kept(told, number, receipts=(one,))) for one in receipts]
    assert [one.segment for one in receipts] == [1, 2, 3]
    assert found[:2] == ["receipts_agree", "breach"]


@pytest.mark.parametrize("number", [ENTRY, EXIT])
@pytest.mark.parametrize(
    "told",
    [HONEST, answered(1), answered(2), answered(55), answered(30, last_shown=False), answered(40, resumed=9)],
    ids=["long", "one", "two", "to a boundary", "left early", "resumed"],
)
def test_an_honest_nodes_receipts_agree(told: Any, number: int) -> None:
    assert reason(accused(number), kept(told, number)) == "receipts_agree"


@pytest.mark.parametrize("number", [ENTRY, EXIT])
@pytest.mark.parametrize(
    ("expected", "changes"),
    [
        ("input_differs", {"prompt_ids": (101, *PROMPT[1:])}),
        ("input_differs", {"prompt_ids": PROMPT[1:]}),
        ("input_differs", {"first_pass": len(PROMPT) - 1}),
        ("input_differs", {"first_pass": 0}),
        ("input_differs", {"completion_ids": (1, *HONEST.completion_ids[1:])}),
        ("input_differs", {"completion_ids": HONEST.completion_ids[:-9]}),
        ("input_differs", {"completion_ids": (*HONEST.completion_ids, *range(CONTEXT))}),
        ("evidence_not_canonical", {"sampling": '{"temperature":0.8,"seed":7}'}),
        ("evidence_not_canonical", {"sampling": "{"}),
        ("evidence_not_canonical", {"sampling": '{"seed":7,"sold":1}'}),
        ("evidence_malformed", {"prompt_ids": (-1, *PROMPT[1:])}),
        ("receipt_forged", {"request_id": ulid(801)}),
        ("receipt_forged", {"chain_epoch": 5}),
        ("receipts_missing", {"receipts": ()}),
        ("evidence_not_canonical", {"receipts": kept(HONEST, ENTRY).receipts[::-1]}),
        ("receipt_forged", {"receipts": (replace(kept(HONEST, ENTRY).receipts[0], output_hash=digest(3)),)}),
        ("receipt_forged", {"receipts": (replace(kept(HONEST, ENTRY).receipts[0], input_hash=digest(3)),)}),
        ("receipt_forged", {"receipts": (replace(kept(HONEST, ENTRY).receipts[0], segment=0),)}),
        ("evidence_malformed", {"prompt_ids": (7,) * 40_000, "completion_ids": (7,) * 100_000}),
    ],
)
def test_what_is_altered_proves_nothing(expected: str, changes: dict[str, Any], number: int) -> None:
    assert reason(accused(number), kept(HONEST, number, **changes)) == expected


def test_other_sampling_is_another_input_of_the_exit_and_none_of_the_entrys() -> None:
    other = sampling_text(seed=8)
    assert reason(accused(EXIT), kept(HONEST, EXIT, sampling=other)) == "input_differs"
    assert reason(accused(ENTRY), kept(HONEST, ENTRY, sampling=other)) == "receipts_agree"


def test_receipts_of_another_attempt_or_node_are_not_the_accuseds() -> None:
    before = answered(attempt=1)
    assert reason(accused(ENTRY), kept(before, ENTRY)) == "receipt_forged"
    assert reason(accused(ENTRY), kept(HONEST, EXIT)) == "receipt_forged"


def test_only_what_promised_equal_bits_is_held_to_them() -> None:
    told = answered(lies=(77, None))
    assert reason(accused(ENTRY, deterministic=False), kept(told, ENTRY)) == "not_deterministic"


def test_an_answer_goes_with_its_kinds_and_nothing_else_does() -> None:
    of, answer = accused(ENTRY), kept(HONEST, ENTRY)
    equivocal = accused(ENTRY, "equivocation", seat=None)
    bodies = [
        assembled(SLASH, of),
        assembled(SLASH, of, receipts=(receipt(of, 1),), answer=answer),
        assembled(SLASH, accused(ENTRY, seat=None), answer=answer),
        assembled(SLASH, equivocal, answer=answer),
        evidence(of, *KEYS[:3]),
        assembled(SLASH, accused(EXIT, "meter_fraud"), answer=kept(HONEST, EXIT)),
        assembled(SLASH, accused(ENTRY, "meter_fraud"), answer=replace(answer, usage=None)),
    ]
    assert {getattr(judge(body), "reason", "") for body in bodies} == {"evidence_malformed"}


def test_who_judges_computes_with_the_logs_model_and_never_more_layers_at_once_than_the_accused() -> None:
    found = judge(assembled(SLASH, accused(EXIT), answer=kept(HONEST, EXIT)))
    assert isinstance(found, Open)
    ids = PROMPT + HONEST.completion_ids
    assert found.rerun == Rerun(WEIGHTS, "bfloat16", 6, CONTEXT, (0, 3, 6), ids, len(PROMPT), SAMPLING)
    seat = found.seat
    narrow = replace(found.case, seat=replace(seat, first_layer=5))
    found = judge(
        assembled(SLASH, narrow, answer=kept(HONEST, EXIT, receipts=kept(HONEST, EXIT).receipts[:1]))
    )
    assert isinstance(found, Open)
    assert found.rerun.cuts == (0, 1, 2, 3, 4, 5, 6)
    assert found.rerun.ids == ids[:63]


def test_an_answer_is_read_back_from_the_bytes_that_anybody_would_write() -> None:
    of = accused(ENTRY)
    body = assembled(SLASH, of, answer=kept(HONEST, ENTRY))
    assert assembled(SLASH, of, answer=read(body).answer) == body  # type: ignore[union-attr]


# Meters


def overcharged(tokens: int) -> Any:
    usage = account(HONEST.receipts[0], len(PROMPT), tokens, 0, HONEST.request_id)
    return replace(HONEST, usage=usage)


def test_more_tokens_than_passes_is_fraud_without_any_model() -> None:
    of = accused(ENTRY, "meter_fraud", deterministic=False, most_micro=9)
    found = verdict(of, kept(overcharged(71), ENTRY))
    assert isinstance(found, Breach)
    assert (found.kind, found.amount_micro) == ("meter_fraud", 9)
    assert reason(of, kept(overcharged(70), ENTRY)) == "usage_agrees"


def test_passes_that_were_told_and_not_made_are_found_by_the_tokens() -> None:
    """`steps` is told beside the signature; the inputs behind the hash are countable."""
    entry = HONEST.receipts[0]
    told = replace(entry, receipts=(*entry.receipts[:-1], replace(entry.receipts[-1], steps=99)))
    usage = account(told, len(PROMPT), 80, 0, HONEST.request_id)
    lying = replace(HONEST, receipts=(told, HONEST.receipts[1]), usage=usage)
    assert reason(accused(ENTRY, "meter_fraud"), kept(lying, ENTRY)) == "breach"
    unknown = kept(lying, ENTRY, prompt_ids=PROMPT[::-1])
    assert reason(accused(ENTRY, "meter_fraud"), unknown) == "input_differs"


@pytest.mark.parametrize(
    "told",
    [HONEST, answered(1), answered(2), answered(30, last_shown=False), answered(40, resumed=9)],
    ids=["long", "one", "two", "left early", "resumed"],
)
def test_an_honest_account_agrees(told: Any) -> None:
    assert reason(accused(ENTRY, "meter_fraud"), kept(told, ENTRY)) == "usage_agrees"


@pytest.mark.parametrize(
    ("expected", "changes"),
    [
        ("receipts_missing", {"receipts": kept(HONEST, ENTRY).receipts[:-1]}),
        ("receipts_missing", {"receipts": ()}),
        ("receipt_forged", {"receipts": (replace(kept(HONEST, ENTRY).receipts[0], output_hash=digest(3)),)}),
        ("usage_forged", {"request_id": ulid(801)}),
        ("usage_forged", {"chain_epoch": 5}),
        ("usage_forged", {"usage": replace(USAGE, completion_tokens=999)}),
        ("usage_forged", {"usage": replace(USAGE, resumed_tokens=999)}),
        ("usage_forged", {"usage": replace(USAGE, own_receipts=digest(3))}),
        ("input_differs", {"prompt_ids": PROMPT[:-1]}),
        ("input_differs", {"first_pass": 1}),
        ("input_differs", {"completion_ids": ()}),
    ],
)
def test_an_account_that_is_altered_proves_nothing(expected: str, changes: dict[str, Any]) -> None:
    assert reason(accused(ENTRY, "meter_fraud"), kept(HONEST, ENTRY, **changes)) == expected


def test_the_neighbours_account_is_nobody_elses() -> None:
    of = accused(ENTRY, "meter_fraud", receipt_key=accused(EXIT).receipt_key, node_id=NODES[EXIT])
    assert reason(of, kept(overcharged(99), ENTRY)) == "usage_forged"
