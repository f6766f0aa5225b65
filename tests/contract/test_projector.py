"""The projector as a real process between a real log and a real PostgreSQL."""

import asyncio
import time

import psycopg
import pytest

from events.envelope import CONTENT_TYPE
from services import generations
from services.database import connect
from services.projection_check import check
from services.projector import EXIT_HALTED
from services.readmodel import UnknownCursor
from tests.projecting import Surroundings, projecting, surroundings, until
from tests.stories import Story

WAIT_S = 30


async def applied(around: Surroundings, sequence: int) -> None:
    assert await around.rows.wait_for(sequence, WAIT_S), f"{await around.rows.position()} of {sequence}"


async def agrees(around: Surroundings) -> int:
    """The rows are what the log says; at which sequence."""
    checked = await check(around.settings)
    assert checked.differences == ()
    assert checked.rows > 0
    return checked.sequence


async def test_a_hostile_story_is_projected_and_agrees_with_a_fresh_replay() -> None:
    async with surroundings() as around:
        story = Story(7, strange=True)
        last = await around.append(story.commits(400))
        async with projecting(around) as projector:
            await applied(around, last)
            last = await around.append(story.commits(200))
            await applied(around, last)
            assert await agrees(around) == last
            assert await projector.stop() == 0
            assert '"event": "stopped"' in projector.said


async def test_a_changed_row_is_found_by_the_check() -> None:
    async with surroundings() as around:
        last = await around.append(Story(8).commits(60))
        async with projecting(around):
            await applied(around, last)
        with psycopg.connect(around.url) as connection:
            connection.execute(
                "UPDATE read.sessions SET payer = 'key:thief' "
                "WHERE id = (SELECT id FROM read.sessions ORDER BY id LIMIT 1)"
            )
            connection.execute(
                "DELETE FROM read.events WHERE position = (SELECT max(position) FROM read.events)"
            )
        found = (await check(around.settings)).differences
        assert [(item.table, item.column) for item in found] == [("events", None), ("sessions", "payer")]
        assert found[1].found == "key:thief"


async def test_it_goes_on_where_it_stopped_and_applies_nothing_twice() -> None:
    async with surroundings() as around:
        story, last = Story(9), 0
        for _ in range(3):
            last = await around.append(story.commits(80))
            async with projecting(around) as projector:
                await applied(around, last)
                await projector.stop()
        assert await agrees(around) == last


async def test_a_second_projector_stands_by_and_takes_over() -> None:
    async with surroundings() as around:
        story = Story(10)
        last = await around.append(story.commits(30))
        async with projecting(around) as first:
            await applied(around, last)
            async with projecting(around) as second:
                await until(lambda: "standing_by" in second.said)
                await first.kill()
                last = await around.append(story.commits(30))
                await applied(around, last)
                assert await agrees(around) == last


async def test_a_checkpoint_moved_by_another_is_not_overwritten() -> None:
    async with surroundings() as around:
        last = await around.append(Story(11).commits(20))
        async with projecting(around):
            await applied(around, last)
        async with await connect(around.url, "test") as connection:
            at = await generations.live(connection)
            assert at is not None
            with pytest.raises(generations.Fenced):
                await generations.advance(connection, at._replace(sequence=last - 1), last + 1, b"x" * 32)
            moved = await generations.advance(connection, at, last + 1, b"x" * 32)
            assert moved.sequence == last + 1


async def halts(around: Surroundings, code: str) -> None:
    """A new projector ends with status 3, one clear line, and the checkpoint where it was."""
    before = await around.rows.position()
    async with projecting(around) as projector:
        assert await projector.ended() == EXIT_HALTED
        halted = [line for line in projector.said.splitlines() if '"halted"' in line]
        assert len(halted) == 1
        assert f'"code": "{code}"' in halted[0]
    assert await around.rows.position() == before


async def append_raw(around: Surroundings, payload: bytes) -> None:
    client = await around.nats.connect("orchestrator")
    await client.jetstream().publish(
        "cp.events.node.01k0000000000000000000000x", payload, headers={"Content-Type": CONTENT_TYPE}
    )


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"not a commit", "malformed_commit"),
        (b'[{"specversion":"\xed\xa0\x80"}]', "malformed_commit"),
        (
            b'[{"specversion":"1.0","id":"a","source":"s","type":"node.registered.v9",'
            b'"subject":"node/01k0000000000000000000000x","time":"2027-01-01T00:00:00Z",'
            b'"datacontenttype":"application/json","cpversion":1,"cpcommand":"c","cpcorrelation":"c",'
            b'"cpcausation":"c","data":{}}]',
            "unknown_event_type",
        ),
    ],
)
async def test_what_it_does_not_understand_halts_it(payload: bytes, code: str) -> None:
    async with surroundings() as around:
        last = await around.append(Story(12).commits(10))
        async with projecting(around):
            await applied(around, last)
        await append_raw(around, payload)
        await halts(around, code)


async def test_another_message_at_the_checkpoint_halts_it() -> None:
    async with surroundings() as around:
        last = await around.append(Story(13).commits(10))
        async with projecting(around):
            await applied(around, last)
        with psycopg.connect(around.url) as connection:
            connection.execute("UPDATE projection_generations SET leaf = sha256('another')")
        await halts(around, "leaf_mismatch")


async def test_a_log_shorter_than_the_checkpoint_halts_it() -> None:
    async with surroundings() as around:
        last = await around.append(Story(14).commits(10))
        async with projecting(around):
            await applied(around, last)
        with psycopg.connect(around.url) as connection:
            connection.execute("UPDATE projection_generations SET sequence = sequence + 5")
        await halts(around, "log_rolled_back")


async def test_rows_of_other_projections_halt_it() -> None:
    async with surroundings() as around:
        last = await around.append(Story(15).commits(10))
        async with projecting(around):
            await applied(around, last)
        with psycopg.connect(around.url) as connection:
            connection.execute("UPDATE projection_generations SET fingerprint = 'older'")
        await halts(around, "generation_outdated")


async def test_a_row_that_went_missing_halts_it() -> None:
    async with surroundings() as around:
        story = Story(16)
        last = await around.append(story.commits(30))
        async with projecting(around):
            await applied(around, last)
        with psycopg.connect(around.url) as connection:
            connection.execute("DELETE FROM read.sessions")
            connection.execute("DELETE FROM read.pools")
            connection.execute("DELETE FROM read.nodes")
        await around.append(story.commits(60))
        await halts(around, "projection_broken")


async def test_a_database_that_is_away_is_waited_for_and_said_once() -> None:
    async with surroundings() as around:
        story = Story(17)
        last = await around.append(story.commits(30))
        name = around.url.split("/")[3].split("?")[0]
        admin_url = around.url.replace(f"/{name}?", "/postgres?")
        async with projecting(around) as projector:
            await applied(around, last)
            with psycopg.connect(admin_url, autocommit=True) as admin:
                admin.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false".encode())
                admin.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
                )
                last = await around.append(story.commits(30))
                await until(lambda: '"waiting"' in projector.said)
                admin.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true".encode())
            await applied(around, last)
            assert projector.said.count('"event": "waiting"') == 1
            assert await agrees(around) == last


async def test_a_log_server_that_is_killed_is_waited_for() -> None:
    async with surroundings() as around:
        story = Story(18)
        last = await around.append(story.commits(30))
        async with projecting(around):
            await applied(around, last)
            await around.nats.kill()
            await around.nats.start()
            last = await around.append(story.commits(30))
            await applied(around, last)
            assert await agrees(around) == last


async def test_readers_page_through_and_read_their_own_writes() -> None:
    async with surroundings() as around:
        assert await around.rows.wait_for(1, 0.05) is False
        last = await around.append(Story(19).commits(300))
        async with projecting(around):
            started = time.monotonic()
            await applied(around, last)
            assert time.monotonic() - started < WAIT_S
            seen: list[str] = []
            after: str | None = None
            while True:
                page = await around.rows.sessions(after, 7)
                seen += [str(row["id"]) for row in page.items]
                if not page.has_more:
                    break
                after = seen[-1]
            with psycopg.connect(around.url) as connection:
                rows = connection.execute(
                    "SELECT id FROM read.sessions ORDER BY created_position DESC"
                ).fetchall()
            assert seen == [session_id for (session_id,) in rows]
            assert len(seen) > 14
            with pytest.raises(UnknownCursor):
                await around.rows.sessions("nothing", 7)

            full = await around.rows.session(seen[0])
            assert full is not None
            assert full["requests"] == len(full["request_list"])
            assert isinstance(full["price_wei_per_s"], str)
            mine = await around.rows.sessions(limit=1000, payer=full["payer"])
            assert {row["payer"] for row in mine.items} == {full["payer"]}
            assert await around.rows.session("nothing") is None

            pools = (await around.rows.pools(limit=1000)).items
            active = [row for row in pools if row["status"] == "active"]
            assert active
            assert active[0]["shards"][0]["first_layer"] == 0
            assert active[0]["shards"][-1]["end_layer"] == active[0]["num_layers"]
            alone = await around.rows.pool(active[0]["id"])
            assert alone == active[0]
            named = await around.rows.pool_by_name(active[0]["name"])
            assert named is not None
            assert named["name"] == active[0]["name"]
            node = (await around.rows.nodes(limit=1)).items[0]
            again = await around.rows.node(node["id"])
            assert again is not None
            assert again["status"] in ("active", "lost", "draining", "retired")


async def test_a_single_commit_is_visible_soon() -> None:
    async with surroundings() as around:
        story = Story(20)
        last = await around.append(story.commits(5))
        async with projecting(around):
            await applied(around, last)
            took_s = []
            for commit in story.commits(20):
                last = await around.append([commit])
                started = asyncio.get_running_loop().time()
                await applied(around, last)
                took_s.append(asyncio.get_running_loop().time() - started)
            assert sorted(took_s)[10] < 0.2
