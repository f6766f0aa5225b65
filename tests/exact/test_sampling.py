"""Draws follow the warped probabilities and depend only on seed and position; knows nothing of shards."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest
from torch import Tensor
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from shard_runtime.messages import Sampling
from shard_runtime.sampling import LogitsNotFinite, gumbel, pick, warp

DRAWS = 20_000


def logits_of(vocab: int, seed: int = 3) -> Tensor:
    return torch.randn(vocab, generator=torch.Generator().manual_seed(seed)) * 2


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(1.0, 0, 1.0), (0.7, 12, 1.0), (1.4, 0, 0.8), (1.0, 20, 0.9)]
)
def test_draws_match_the_warped_probabilities(temperature: float, top_k: int, top_p: float) -> None:
    logits = logits_of(32)
    sampling = Sampling(seed=12345, temperature=temperature, top_k=top_k, top_p=top_p)
    drawn = np.bincount([pick(logits, sampling, position) for position in range(DRAWS)], minlength=32)
    likely = warp(logits, temperature, top_k, top_p).double().softmax(-1).numpy()
    kept = likely > 0
    assert drawn[~kept].sum() == 0, "a filtered token was drawn"
    assert chisquare(drawn[kept], likely[kept] * DRAWS).pvalue > 0.001


def test_seeds_are_independent_of_each_other() -> None:
    logits = logits_of(32)
    drawn = np.bincount(
        [pick(logits, Sampling(seed=seed, temperature=1.0), 7) for seed in range(DRAWS)], minlength=32
    )
    assert chisquare(drawn, logits.double().softmax(-1).numpy() * DRAWS).pvalue > 0.001


def test_the_noise_is_standard_gumbel() -> None:
    assert kstest(gumbel(99, 4, 50_000), "gumbel_r").pvalue > 0.001


def test_the_noise_never_changes() -> None:
    """Recorded once: another value here would change every seeded answer ever given."""
    np.testing.assert_allclose(gumbel(2**64 - 1, 5, 3), GOLDEN, rtol=1e-14)


GOLDEN = [-1.0622570643728493, 0.4017203538645971, -0.1313929635453179]


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**31), st.integers(1, 400), st.integers(1, 400))
def test_noise_is_a_pure_function_and_a_longer_vocabulary_only_appends(
    seed: int, position: int, vocab: int, other: int
) -> None:
    shorter = min(vocab, other)
    noise = gumbel(seed, position, vocab)
    assert np.array_equal(noise[:shorter], gumbel(seed, position, other)[:shorter])
    assert np.isfinite(noise).all()
    assert not np.array_equal(noise, gumbel(seed, position + 1, vocab))


@given(
    st.integers(0, 1000),
    st.floats(0.05, 5),
    st.integers(0, 80),
    st.floats(0.01, 1.0, exclude_min=True),
)
def test_warping_equals_transformers_own_warpers(
    seed: int, temperature: float, top_k: int, top_p: float
) -> None:
    logits = logits_of(64, seed)
    expected = TemperatureLogitsWarper(temperature)(None, logits[None])
    if top_k:
        expected = TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(None, expected)
    assert torch.equal(warp(logits, temperature, top_k, top_p), expected[0])


def test_temperature_zero_is_greedy_and_ignores_the_seed() -> None:
    logits = logits_of(500)
    assert {pick(logits, Sampling(seed=seed), 3) for seed in range(50)} == {int(logits.argmax())}
    assert pick(logits, Sampling(seed=1, temperature=1e-30), 3) == int(logits.argmax())


def test_a_small_temperature_approaches_greedy_without_overflow() -> None:
    logits = logits_of(500)
    assert {pick(logits, Sampling(seed=seed, temperature=1e-4), 3) for seed in range(50)} == {
        int(logits.argmax())
    }


def test_a_top_p_of_almost_nothing_keeps_the_best_token() -> None:
    warped = warp(logits_of(100), 1.0, 0, 1e-9)
    assert torch.isfinite(warped).sum() == 1
    assert int(warped.argmax()) == int(logits_of(100).argmax())


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [torch.nan, -torch.inf])
def test_logits_that_are_no_numbers_are_an_error_not_a_token(temperature: float, bad: float) -> None:
    logits = torch.full((10,), bad)
    with pytest.raises(LogitsNotFinite) as refused:
        pick(logits, Sampling(seed=1, temperature=temperature, top_p=0.9), 0)
    assert refused.value.code == "logits_not_finite"
