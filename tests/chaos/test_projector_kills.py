"""The projector killed at points that hypothesis chooses: the rows are always those of a fresh replay.

A moment is chosen by what is seen from outside (checkpoint reached, then a delay), by no hook in the product.
"""

import asyncio

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from services.projection_check import check
from tests.projecting import Surroundings, surroundings
from tests.stories import Story

MOMENTS = st.tuples(st.floats(0.02, 1), st.integers(0, 40))
"""(share of this round's commits that must be applied first, then so many ms until SIGKILL)."""
COMMITS_PER_ROUND = 120


async def killed_and_compared(seed: int, moments: list[tuple[float, int]]) -> None:
    async with surroundings() as around:
        story, begun = Story(seed, strange=True), 0
        for share, delay_ms in moments:
            projector = await around.projector()
            appending = asyncio.create_task(around.append(story.commits(COMMITS_PER_ROUND)))
            try:
                await reached(around, begun + int(share * COMMITS_PER_ROUND))
                await asyncio.sleep(delay_ms / 1000)
            finally:
                await projector.kill()
            assert projector.process.returncode == -9, projector.said
            begun = await appending
            checked = await check(around.settings)
            assert checked.differences == ()
        projector = await around.projector()
        try:
            await reached(around, begun)
        finally:
            await projector.kill()
        checked = await check(around.settings)
        assert checked.sequence == begun == len(moments) * COMMITS_PER_ROUND
        assert checked.differences == ()


async def reached(around: Surroundings, sequence: int) -> None:
    assert await around.rows.wait_for(sequence, 60), f"{await around.rows.position()} of {sequence}"


@settings(max_examples=1, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@example(1, [(0.1, 3), (0.35, 0), (0.5, 7), (0.8, 1), (0.95, 12)])
@given(st.integers(0, 2**32), st.lists(MOMENTS, min_size=3, max_size=3))
def test_a_few_kills_lose_and_repeat_nothing(seed: int, moments: list[tuple[float, int]]) -> None:
    asyncio.run(killed_and_compared(seed, moments))


@pytest.mark.long
@pytest.mark.timeout(1500)
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32), st.lists(MOMENTS, min_size=10, max_size=10))
def test_sixty_kills_lose_and_repeat_nothing(seed: int, moments: list[tuple[float, int]]) -> None:
    asyncio.run(killed_and_compared(seed, moments))
