"""What an exit says of a token comes back as it was; nothing that isn't well-formed is taken."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shard_runtime.messages import Sampling, Tokens, encode
from shard_runtime.picked import MAX_LIKELY, NEVER, Picked, PickedInvalid
from shard_runtime.sampling import weighed

VOCAB = 1000
ids = st.integers(0, VOCAB - 1)
logprobs = st.floats(NEVER, 0.0)
picked = st.one_of(
    st.builds(Picked, ids),
    st.builds(Picked, ids, logprobs, st.lists(st.tuples(ids, logprobs), max_size=MAX_LIKELY).map(tuple)),
)


@given(picked)
def test_cells_and_back(one: Picked) -> None:
    assert Picked.of_cells(one.cells(), VOCAB) == one


@given(st.binary(max_size=400))
def test_any_bytes_are_a_token_or_refused(raw: bytes) -> None:
    try:
        one = Picked.of_cells(raw, VOCAB)
    except PickedInvalid:
        return
    assert 0 <= one.token < VOCAB
    assert one.logprob is None or NEVER <= one.logprob <= 0.0


@pytest.mark.parametrize(
    "one",
    [
        Picked(VOCAB),
        Picked(-1),
        Picked(1, 0.5),
        Picked(1, float("nan")),
        Picked(1, float("-inf")),
        Picked(1, -1.0, ((VOCAB, -1.0),)),
        Picked(1, -1.0, ((2, 0.1),)),
        Picked(1, -1.0, ((2, -1.0),) * (MAX_LIKELY + 1)),
    ],
)
def test_what_no_exit_can_mean_is_refused(one: Picked) -> None:
    with pytest.raises(PickedInvalid):
        Picked.of_cells(one.cells(), VOCAB)


@given(st.lists(st.floats(-50, 50, width=32), min_size=2, max_size=40), st.integers(0, 20), st.data())
def test_log_probabilities_are_those_of_the_raw_logits(
    values: list[float], count: int, data: st.DataObject
) -> None:
    logits = torch.tensor(values, dtype=torch.float32)
    token = data.draw(st.integers(0, len(values) - 1))
    one = weighed(logits, token, count)
    expected = torch.log_softmax(logits, -1)
    assert one.logprob == pytest.approx(float(expected[token]), abs=1e-4)
    assert len(one.likely) == min(count, len(values))
    found = torch.tensor([logprob for _, logprob in one.likely])
    assert torch.allclose(found, expected.sort(descending=True).values[: len(found)], atol=1e-4)
    assert all(logprob == pytest.approx(float(expected[number]), abs=1e-4) for number, logprob in one.likely)


def test_an_impossible_token_has_openais_number_and_can_be_sent() -> None:
    one = weighed(torch.tensor([0.0, -torch.inf, 1.0]), 0, 3)
    assert one.likely[-1] == (1, NEVER)
    assert Picked.of_cells(one.cells(), 3) == one


def test_what_nobody_asked_for_is_not_sent() -> None:
    assert len(Picked(7).cells()) == 8
    assert b"logprob" not in encode(Sampling(1))
    said = encode(Tokens("r", 1, 0, (1,), "x"))
    assert b"logprob" not in said
    assert b"spelled" not in said
