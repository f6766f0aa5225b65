"""Blue/green rebuild and rollback under a running projector, on a real log and a real PostgreSQL."""

import asyncio

import psycopg
import pytest

from services.projection_check import check
from services.rebuild import NothingToRollBack, Progress, RebuildRunning, rebuild, rollback
from tests.projecting import Surroundings, projecting, surroundings
from tests.stories import Story

WAIT_S = 30


def statuses(around: Surroundings) -> list[tuple[int, str]]:
    with psycopg.connect(around.url) as connection:
        rows = connection.execute(
            "SELECT generation, status FROM projection_generations ORDER BY generation"
        ).fetchall()
    return [(int(number), str(status)) for number, status in rows]


def schemas(around: Surroundings) -> set[str]:
    with psycopg.connect(around.url) as connection:
        rows = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'read%'").fetchall()
    return {str(name) for (name,) in rows}


async def test_readers_and_the_projector_never_stop_while_generations_are_swapped() -> None:
    async with surroundings() as around:
        story = Story(31, strange=True)
        last = await around.append(story.commits(300))
        async with projecting(around) as projector:
            assert await around.rows.wait_for(last, WAIT_S)
            stop, reads = asyncio.Event(), [0]

            async def read_on() -> None:
                previous = 0
                while not stop.is_set():
                    position = await around.rows.position()
                    assert position >= previous
                    previous = position
                    page = await around.rows.sessions(limit=1000)
                    assert len(page.items) > 20
                    reads[0] += 1

            async def write_on() -> None:
                while not stop.is_set():
                    await around.append(story.commits(5))

            tasks = [asyncio.create_task(read_on()), asyncio.create_task(write_on())]
            seen: list[Progress] = []
            reports = [await rebuild(around.settings, seen.append) for _ in range(3)]
            stop.set()
            await asyncio.gather(*tasks)
            for number, report in enumerate(reports, 2):
                assert report.generation == number
                assert report.previous == number - 1
                assert report.swapped
                assert report.differences == ()
                assert report.compared_at == report.sequence
            assert statuses(around) == [(3, "retired"), (4, "live")]
            assert schemas(around) == {"read", "read_3", "read_4"}
            assert [item.phase for item in seen][:2] == ["replay", "index"]
            assert reads[0] > 5
            last = await around.append(story.commits(20))
            assert await around.rows.wait_for(last, WAIT_S), projector.said
            checked = await check(around.settings)
            assert checked.sequence == last
            assert checked.differences == ()
            assert await projector.stop() == 0


async def test_the_first_rebuild_needs_no_live_generation() -> None:
    async with surroundings() as around:
        last = await around.append(Story(32).commits(50))
        report = await rebuild(around.settings, lambda _: None)
        assert (report.previous, report.compared_at, report.swapped) == (None, None, True)
        assert report.sequence == last
        assert (await check(around.settings)).differences == ()
        with pytest.raises(NothingToRollBack):
            await rollback(around.settings)


async def test_a_difference_keeps_the_old_generation_unless_accepted() -> None:
    async with surroundings() as around:
        last = await around.append(Story(33).commits(50))
        async with projecting(around):
            assert await around.rows.wait_for(last, WAIT_S)
            with psycopg.connect(around.url) as connection:
                connection.execute("UPDATE read.sessions SET payer = 'key:thief'")
            refused = await rebuild(around.settings, lambda _: None)
            assert not refused.swapped
            assert [text.split(":")[0] for text in refused.differences] == ["sessions"]
            assert statuses(around) == [(1, "live")]
            assert (await check(around.settings)).differences != ()
            accepted = await rebuild(around.settings, lambda _: None, accept_differences=True)
            assert accepted.swapped
            assert (await check(around.settings)).differences == ()


async def test_a_rollback_brings_the_old_generation_back_and_it_catches_up() -> None:
    async with surroundings() as around:
        story = Story(34)
        last = await around.append(story.commits(50))
        async with projecting(around):
            assert await around.rows.wait_for(last, WAIT_S)
            await rebuild(around.settings, lambda _: None)
            last = await around.append(story.commits(50))
            assert await around.rows.wait_for(last, WAIT_S)
            back = await rollback(around.settings)
            assert back.number == 1
            assert statuses(around) == [(1, "live"), (2, "retired")]
            last = await around.append(story.commits(10))
            assert await around.rows.wait_for(last, WAIT_S)
            async with asyncio.timeout(WAIT_S):
                while (checked := await check(around.settings)).sequence < last:
                    await asyncio.sleep(0.02)
            assert checked.differences == ()


async def test_rows_of_older_projections_are_replaced_whatever_they_held() -> None:
    async with surroundings() as around:
        last = await around.append(Story(35).commits(40))
        async with projecting(around):
            assert await around.rows.wait_for(last, WAIT_S)
        with psycopg.connect(around.url) as connection:
            connection.execute("UPDATE projection_generations SET fingerprint = 'older'")
            connection.execute("ALTER TABLE read_1.sessions DROP COLUMN payer CASCADE")
            connection.execute("UPDATE read_1.sessions SET status = 'unheard of'")
        report = await rebuild(around.settings, lambda _: None)
        assert report.swapped
        assert [text.split(":")[0] for text in report.differences] == ["sessions"]
        assert (await check(around.settings)).differences == ()


async def test_two_rebuilds_at_once_are_refused_and_a_cut_off_one_leaves_nothing() -> None:
    async with surroundings() as around:
        await around.append(Story(36).commits(80))
        first_step = asyncio.Event()
        first = asyncio.create_task(rebuild(around.settings, lambda _: first_step.set()))
        await first_step.wait()
        with pytest.raises(RebuildRunning):
            await rebuild(around.settings, lambda _: None)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        report = await rebuild(around.settings, lambda _: None)
        assert report.swapped
        assert statuses(around) == [(report.generation, "live")]
        assert schemas(around) == {"read", f"read_{report.generation}"}
