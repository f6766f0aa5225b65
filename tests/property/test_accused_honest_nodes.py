"""Whatever anybody makes of an honest node's receipts and tokens, no breach follows."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from events.kept_answer import KeptAnswer
from tests.aggregates import ulid
from tests.kept_answers import ATTEMPT, PROMPT, account, accused, answered, kept, reason, sampling_text

ANSWERS = (answered(), answered(41, prompt=PROMPT[:23], request_id=ulid(802)), answered(30, resumed=12))
"""The same nodes' honest answers, all in one session."""
tokens = st.lists(st.integers(0, 400), max_size=90).map(tuple)


@st.composite
def accusations(draw: Any) -> tuple[int, KeptAnswer, int]:
    """(who is accused, what is shown, of which attempt): put together from what honest nodes signed."""
    number, base = draw(st.integers(0, 1)), draw(st.sampled_from(ANSWERS))
    signed = [kept(one, who).receipts for one in ANSWERS for who in (0, 1)]
    pool = draw(st.sampled_from(signed)) if draw(st.booleans()) else kept(base, number).receipts
    receipts = tuple(one for one in pool if draw(st.integers(0, 3)))
    if receipts and draw(st.booleans()):
        steps = draw(st.integers(0, 99))
        receipts = (*receipts[:-1], replace(receipts[-1], steps=steps))
    said = draw(st.sampled_from(ANSWERS))
    ids = said.prompt_ids + said.completion_ids
    cut = draw(st.integers(0, len(ids)))
    prompt, completion = draw(
        st.one_of(
            st.just((said.prompt_ids, said.completion_ids)),
            st.just((ids[:cut], ids[cut:])),
            st.just((said.prompt_ids, said.completion_ids[: cut % 70])),
            st.tuples(tokens, tokens),
        )
    )
    first_pass = draw(st.one_of(st.just(len(said.prompt_ids)), st.just(cut), st.integers(0, 120)))
    usages = [kept(one, 0).usage for one in ANSWERS]
    shown = kept(
        base,
        number,
        receipts=receipts,
        prompt_ids=prompt,
        completion_ids=completion,
        first_pass=first_pass,
        sampling=sampling_text(seed=draw(st.integers(6, 8))),
        request_id=draw(st.sampled_from([ulid(800), ulid(802)])),
        usage=draw(st.sampled_from(usages)),
    )
    return number, shown, draw(st.sampled_from([ATTEMPT, ATTEMPT, ATTEMPT + 1]))


@given(accusations())
@settings(max_examples=300, deadline=None)
def test_no_accusation_makes_a_breach_of_an_honest_node(accusation: tuple[int, KeptAnswer, int]) -> None:
    number, shown, attempt = accusation
    for kind in ("wrong_output", "meter_fraud"):
        of = accused(number, kind)
        assert of.seat is not None
        of = replace(of, seat=replace(of.seat, attempt=attempt))
        assert reason(of, shown) != "breach"


@given(st.integers(0, 70), st.integers(0, 40), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_an_account_is_fraud_exactly_when_it_has_more_tokens_than_passes(
    count: int, resumed: int, more: int
) -> None:
    told = answered(1 + count, resumed=resumed)
    usage = account(told.receipts[0], len(PROMPT), 1 + count + resumed + more, resumed, told.request_id)
    found = reason(accused(0, "meter_fraud"), kept(replace(told, usage=usage), 0))
    assert found == ("breach" if more else "usage_agrees")


@given(st.integers(0, 1), st.integers(41, 110), st.integers(1, 70))
@settings(max_examples=60, deadline=None)
def test_a_lie_is_its_nodes_wherever_it_stands_and_never_the_other_ones(
    liar: int, position: int, count: int
) -> None:
    told = answered(count, lies=(position, None) if liar == 0 else (None, position))
    found = reason(accused(liar), kept(told, liar))
    assert found == ("breach" if position < len(PROMPT) + count - 1 else "receipts_agree")
    assert reason(accused(1 - liar), kept(told, 1 - liar)) != "breach"
