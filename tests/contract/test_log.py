"""The event log against a real nats-server, with real faults between the two."""

import asyncio
import shutil
from collections.abc import AsyncIterator

import pytest
from nats.js.api import StreamConfig

from events import session
from events.envelope import Commit, decode_commit, encode_commit, subject_of
from services.jetstream import StoredMessage
from services.log import (
    CommitIdReused,
    Conflict,
    EventLog,
    Gap,
    LogReadOnly,
    LogRolledBack,
    LogUnavailable,
    Writer,
)
from services.nkey import new_seed
from services.streams import ensure_streams
from tests.aggregates import cause, opened, request_started, ulid
from tests.nats_server import NatsServer, nats_server
from tests.tcp_proxy import TcpProxy, tcp_proxy

SESSION = ulid(900)


@pytest.fixture
async def server() -> AsyncIterator[NatsServer]:
    async with nats_server() as running:
        yield running


async def log_of(server: NatsServer, role: str = "gateway", proxy: TcpProxy | None = None) -> EventLog:
    client = await server.connect(role, url=proxy.url if proxy else None)
    return await EventLog.open(client, Writer.load(server.settings.seeds_dir / f"{role}.nk"))


async def reader_of(server: NatsServer) -> EventLog:
    return await EventLog.open(await server.connect("projector"), None)


def opening(command_id: str = "open", aggregate_id: str = SESSION, at_unix_ms: int = 1) -> Commit:
    return encode_commit("session", aggregate_id, 1, (opened(),), cause(command_id, at_unix_ms))


def starting(number: int, version: int) -> Commit:
    return encode_commit("session", SESSION, version, (request_started(number),), cause(f"start {number}"))


async def everything(log: EventLog, after: int = 0) -> list[StoredMessage]:
    return [message async for message in log.read(after, follow=False)]


async def test_an_appended_commit_is_the_history(server: NatsServer) -> None:
    log = await log_of(server)
    stored = await log.append(opening(), 0)
    assert stored == (1, False)
    history = await log.history("session", SESSION)
    assert history.last_sequence == 1
    assert [item.event for item in history.recorded] == [opened()]
    assert (await log.history("session", ulid(901))) == ((), 0)


async def test_a_stale_expectation_conflicts_and_stores_nothing(server: NatsServer) -> None:
    log = await log_of(server)
    await log.append(opening(), 0)
    with pytest.raises(Conflict):
        await log.append(opening("another"), 0)
    with pytest.raises(Conflict):
        await log.append(starting(1, 2), 7)
    assert await log.last_sequence() == 1


async def test_the_same_commit_again_is_stored_once(server: NatsServer) -> None:
    log = await log_of(server)
    first = await log.append(opening(), 0)
    again = await log.append(opening(), 0)
    later_attempt = await log.append(opening(at_unix_ms=2), 0)
    assert again == first
    assert later_attempt == (1, True)
    assert await log.last_sequence() == 1


async def test_a_commit_id_used_elsewhere_is_refused_and_not_dropped_silently(server: NatsServer) -> None:
    log = await log_of(server)
    await log.append(opening("same"), 0)
    with pytest.raises(CommitIdReused):
        await log.append(opening("same", ulid(902)), 0)
    assert (await log.history("session", ulid(902))).last_sequence == 0


async def test_the_signature_covers_what_is_stored(server: NatsServer) -> None:
    log = await log_of(server)
    await log.append(opening(), 0)
    (message,) = await everything(log)
    assert message.headers["cp-writer"] == Writer.load(server.access.seed_path("gateway")).public_key
    assert len(bytes.fromhex(message.headers["cp-sig"])) == 64
    assert message.headers["Nats-Expected-Last-Subject-Sequence"] == "0"


async def test_a_long_history_is_read_whole(server: NatsServer) -> None:
    log = await log_of(server)
    await log.append(opening(), 0)
    await log.append(opening("other", ulid(903)), 0)
    sequence = 1
    for number in range(2, 302):
        sequence = (await log.append(starting(number, number), sequence)).sequence
    history = await log.history("session", SESSION)
    assert [item.version for item in history.recorded] == list(range(1, 302))
    assert history.last_sequence == sequence == 302


async def test_a_lost_acknowledgement_is_resolved_from_the_log(server: NatsServer) -> None:
    async with tcp_proxy(server.port) as proxy:
        log = await log_of(server, proxy=proxy)
        proxy.cut_once(answer=b'"stream":"CP_EVENTS"')
        stored = await log.append(opening(), 0)
        assert proxy.cuts == 1
        assert stored == (1, False)
        assert len(await everything(log)) == 1
        await log._client.close()


async def test_a_lost_request_is_sent_again(server: NatsServer) -> None:
    async with tcp_proxy(server.port) as proxy:
        log = await log_of(server, proxy=proxy)
        proxy.cut_once(request=b"HPUB cp.events.session.")
        stored = await log.append(opening(), 0)
        assert proxy.cuts == 1
        assert stored == (1, False)
        assert len(await everything(log)) == 1
        await log._client.close()


async def test_a_late_acknowledgement_makes_no_second_commit(server: NatsServer) -> None:
    async with tcp_proxy(server.port) as proxy:
        log = await log_of(server, proxy=proxy)
        watcher = await reader_of(server)
        proxy.answers_pass.clear()
        appending = asyncio.create_task(log.append(opening(), 0))
        async for _ in watcher.read(0):
            break
        await asyncio.wait({appending}, timeout=2.5)
        assert not appending.done()
        proxy.answers_pass.set()
        assert await appending == (1, False)
        assert len(await everything(watcher)) == 1
        await log._client.close()


async def test_a_lost_acknowledgement_of_a_conflict_is_a_conflict(server: NatsServer) -> None:
    async with tcp_proxy(server.port) as proxy:
        other = await log_of(server, "orchestrator")
        log = await log_of(server, proxy=proxy)
        await other.append(opening("other"), 0)
        proxy.cut_once(answer=b"10071")
        with pytest.raises(Conflict):
            await log.append(opening("mine"), 0)
        assert proxy.cuts == 1
        await log._client.close()


async def test_kill_and_restart_during_appends_loses_and_doubles_nothing(server: NatsServer) -> None:
    log = await log_of(server)
    acknowledged: list[tuple[str, int]] = []

    async def write(worker: int) -> None:
        for number in range(12):
            aggregate = ulid(1000 + 100 * worker + number)
            stored = await log.append(opening(f"{worker}/{number}", aggregate), 0)
            acknowledged.append((aggregate, stored.sequence))

    writing = [asyncio.create_task(write(worker)) for worker in range(8)]
    for at_least in (10, 40):
        async with asyncio.timeout(30):
            while len(acknowledged) < at_least:
                await asyncio.sleep(0.001)
        await server.kill()
        await server.start()
    await asyncio.gather(*writing)
    stored = {message.subject: message.sequence for message in await everything(log)}
    assert len(acknowledged) == 96
    assert await log.last_sequence() == 96
    assert stored == {subject_of("session", aggregate): sequence for aggregate, sequence in acknowledged}


async def test_a_follower_goes_on_over_a_restart(server: NatsServer) -> None:
    log, reader = await log_of(server), await reader_of(server)
    seen: list[int] = []

    async def follow() -> None:
        async for message in reader.read(0, batch=2):
            seen.append(message.sequence)
            if len(seen) == 10:
                return

    following = asyncio.create_task(follow())
    for number in range(5):
        await log.append(opening(f"a{number}", ulid(number)), 0)
    await server.kill()
    await server.start()
    for number in range(5, 10):
        await log.append(opening(f"a{number}", ulid(number)), 0)
    await asyncio.wait_for(following, 20)
    assert seen == list(range(1, 11))


async def test_reading_begins_after_the_given_sequence(server: NatsServer) -> None:
    log, reader = await log_of(server), await reader_of(server)
    for number in range(5):
        await log.append(opening(f"a{number}", ulid(number)), 0)
    assert [message.sequence for message in await everything(reader, 3)] == [4, 5]
    assert await everything(reader, 5) == []
    assert await reader.last_sequence() == 5
    assert (await reader.history("session", ulid(3))).last_sequence == 4


async def test_a_log_that_lost_its_tail_is_not_written_to(server: NatsServer) -> None:
    log = await log_of(server)
    await log.append(opening("kept", ulid(1)), 0)
    await server.stop()
    shutil.copytree(server.store_dir, server.directory / "copy")
    await server.start()
    await log.append(opening("lost", ulid(2)), 0)
    await server.stop()
    shutil.rmtree(server.store_dir)
    shutil.move(server.directory / "copy", server.store_dir)
    await server.start()
    with pytest.raises(LogRolledBack):
        await log.append(opening("new", ulid(3)), 0)
    with pytest.raises(LogRolledBack):
        await log_of(server)
    assert len(await everything(await reader_of(server))) == 1


async def test_another_commit_at_a_known_sequence_stops_the_writer(server: NatsServer) -> None:
    log = await log_of(server)
    await log.append(opening("mine", ulid(1)), 0)
    await server.stop()
    shutil.rmtree(server.store_dir)
    await server.start()
    await ensure_streams(await server.connect("admin"), 1)
    await (await log_of(server, "orchestrator")).append(opening("other", ulid(2)), 0)
    with pytest.raises(LogRolledBack, match="another commit"):
        await log_of(server)


async def test_a_hole_stops_the_reader() -> None:
    async with nats_server(auth=False, streams=False) as server:
        client = await server.connect()
        await client.jetstream().add_stream(
            StreamConfig(name="CP_EVENTS", subjects=["cp.events.>"], allow_direct=True)
        )
        log = await EventLog.open(client, Writer(new_seed(), server.directory / "head"))
        for number in range(5):
            await log.append(opening(f"a{number}", ulid(number)), 0)
        await client.jetstream().delete_msg("CP_EVENTS", 3)
        seen: list[int] = []

        async def follow() -> None:
            async for message in log.read(0, batch=2):
                seen.append(message.sequence)

        with pytest.raises(Gap):
            await asyncio.wait_for(follow(), 10)
        assert seen == [1, 2]


async def test_a_full_log_refuses_at_once() -> None:
    async with nats_server(auth=False, streams=False) as server:
        client = await server.connect()
        await client.jetstream().add_stream(
            StreamConfig(
                name="CP_EVENTS", subjects=["cp.events.>"], allow_direct=True, max_msgs=1, discard="new"
            )
        )
        log = await EventLog.open(client, Writer(new_seed(), server.directory / "head"))
        await log.append(opening("first", ulid(1)), 0)
        with pytest.raises(LogUnavailable, match="maximum messages"):
            await asyncio.wait_for(log.append(opening("second", ulid(2)), 0), 2)


async def test_a_closed_connection_ends_everything_at_once(server: NatsServer) -> None:
    log = await log_of(server)

    async def follow() -> None:
        async for _ in log.read(0):
            pass

    following = asyncio.create_task(follow())
    await log.append(opening(), 0)
    await log._client.close()
    with pytest.raises(LogUnavailable):
        await asyncio.wait_for(following, 5)
    with pytest.raises(LogUnavailable):
        await asyncio.wait_for(log.append(opening("later", ulid(5)), 0), 1)
    with pytest.raises(LogUnavailable):
        await asyncio.wait_for(log.history("session", SESSION), 1)


async def test_without_a_key_nothing_is_appended(server: NatsServer) -> None:
    with pytest.raises(LogReadOnly):
        await (await reader_of(server)).append(opening(), 0)


async def test_a_stored_commit_decodes_to_the_same_events(server: NatsServer) -> None:
    log = await log_of(server)
    events = (opened(), request_started(1), session.Expired(5))
    await log.append(encode_commit("session", SESSION, 1, events, cause("three")), 0)
    (message,) = await everything(log)
    recorded = decode_commit(message.subject, message.sequence, message.headers, message.payload)
    assert tuple(item.event for item in recorded) == events
    assert [item.position for item in recorded] == [1024, 1025, 1026]
