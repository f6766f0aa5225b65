"""Given a source of messages, when it is cut into batches, then nothing is lost, reordered or waited for."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from services.jetstream import StoredMessage
from services.log import Gap
from services.projector import batches


def message(sequence: int) -> StoredMessage:
    return StoredMessage("cp.events.node.x", sequence, {}, b"")


async def source(*runs: range, end: Exception | None = None) -> AsyncIterator[StoredMessage]:
    """Runs of messages with a silence longer than the linger between them."""
    for number, run in enumerate(runs):
        if number:
            await asyncio.sleep(0.05)
        for sequence in run:
            yield message(sequence)
    if end is not None:
        raise end


async def cut(messages: AsyncIterator[StoredMessage], limit: int) -> list[list[int]]:
    return [[item.sequence for item in run] async for run in batches(messages, limit, 0.01)]


async def test_a_silence_ends_a_batch_and_so_does_the_limit() -> None:
    assert await cut(source(range(1, 4), range(4, 5), range(5, 12)), 5) == [
        [1, 2, 3],
        [4],
        [5, 6, 7, 8, 9],
        [10, 11],
    ]


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
async def test_every_message_comes_once_and_in_order(limit: int) -> None:
    runs = await cut(source(range(1, 8), range(8, 30)), limit)
    assert [sequence for run in runs for sequence in run] == list(range(1, 30))
    assert max(map(len, runs)) <= limit


async def test_an_error_comes_after_the_messages_before_it() -> None:
    seen: list[int] = []

    async def read_on() -> None:
        async for run in batches(source(range(1, 6), end=Gap("6")), 2, 0.01):
            seen.extend(item.sequence for item in run)

    with pytest.raises(Gap):
        await read_on()
    assert seen == [1, 2, 3, 4, 5]


async def test_a_source_that_loses_a_cancellation_does_not_hold_up_the_end() -> None:
    async def stubborn() -> AsyncIterator[StoredMessage]:
        yield message(1)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    runs = batches(stubborn(), 10, 0.01)
    assert [item.sequence for item in await anext(runs)] == [1]
    async with asyncio.timeout(5):
        await runs.aclose()
