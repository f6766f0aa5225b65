"""One command, once: `handle` against a real log, under contention, repetition and kills."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from events import session
from services.handle import Handled, handle
from services.log import EventLog, LogUnavailable, Writer
from tests.aggregates import cause, generation_ended, opened, request_started, start_request, ulid
from tests.nats_server import NatsServer, nats_server
from tests.tcp_proxy import tcp_proxy

SESSION = ulid(900)


@pytest.fixture
async def server() -> AsyncIterator[NatsServer]:
    async with nats_server() as running:
        yield running


async def log_of(server: NatsServer, role: str = "gateway", url: str | None = None) -> EventLog:
    client = await server.connect(role, url=url)
    return await EventLog.open(client, Writer.load(server.settings.seeds_dir / f"{role}.nk"))


async def test_a_command_becomes_an_event_and_a_state(server: NatsServer) -> None:
    log = await log_of(server)
    handled = await handle(log, "session", SESSION, session.Open(opened()), cause("open"))
    assert handled == (1, (opened(),), session.OpenSession(opened()), False)


async def test_a_refusal_appends_nothing(server: NatsServer) -> None:
    log = await log_of(server)
    with pytest.raises(session.SessionUnknown):
        await handle(log, "session", SESSION, start_request(1), cause("start"))
    assert await log.last_sequence() == 0


async def test_nothing_to_do_says_where_the_aggregate_stands(server: NatsServer) -> None:
    log = await log_of(server)
    await handle(log, "session", SESSION, session.Open(opened()), cause("open"))
    again = await handle(log, "session", SESSION, session.Open(opened()), cause("open again"))
    assert again == (1, (), session.OpenSession(opened()), False)
    assert await log.last_sequence() == 1


async def test_a_replayed_command_gets_its_first_answer(server: NatsServer) -> None:
    """Even when it would be refused by now: the session is settled in between."""
    log = await log_of(server)
    await handle(log, "session", SESSION, session.Open(opened()), cause("open"))
    first = await handle(log, "session", SESSION, start_request(1), cause("start"))
    ended = session.EndGeneration(generation_ended(1))
    await handle(log, "session", SESSION, ended, cause("end"))
    await handle(log, "session", SESSION, session.Settle(), cause("settle"))
    again = await handle(await log_of(server), "session", SESSION, start_request(1), cause("start", 99))
    assert again == first._replace(replayed=True)
    assert list(again.state.running) == [ulid(1)]
    assert await log.last_sequence() == 4


async def test_sixteen_writers_on_one_aggregate_lose_nothing(server: NatsServer) -> None:
    logs = [await log_of(server) for _ in range(16)]
    await handle(logs[0], "session", SESSION, session.Open(opened()), cause("open"))
    handled = await asyncio.gather(
        *(
            handle(log, "session", SESSION, start_request(number), cause(f"start {number}"))
            for number, log in enumerate(logs)
        )
    )
    history = await logs[0].history("session", SESSION)
    assert [item.version for item in history.recorded] == list(range(1, 18))
    assert {item.event for item in history.recorded[1:]} == {request_started(n) for n in range(16)}
    assert sorted(item.sequence for item in handled) == list(range(2, 18))


async def test_one_command_sent_eight_times_at_once_has_one_effect(server: NatsServer) -> None:
    logs = [await log_of(server) for _ in range(8)]
    handled = await asyncio.gather(
        *(
            handle(log, "session", SESSION, session.Open(opened()), cause("open", at))
            for at, log in enumerate(logs)
        )
    )
    assert await logs[0].last_sequence() == 1
    assert {(item.sequence, item.events) for item in handled} == {(1, (opened(),))}
    assert sum(not item.replayed for item in handled) == 1


async def test_lost_acknowledgements_are_not_repeated_as_events(server: NatsServer) -> None:
    async with tcp_proxy(server.port) as proxy:
        log = await log_of(server, url=proxy.url)
        await handle(log, "session", SESSION, session.Open(opened()), cause("open"))
        for number in range(6):
            proxy.cut_once(answer=b'"stream":"CP_EVENTS"')
            await handle(log, "session", SESSION, start_request(number), cause(f"start {number}"))
        assert proxy.cuts == 6
        history = await log.history("session", SESSION)
        assert [item.version for item in history.recorded] == list(range(1, 8))
        await log._client.close()


async def test_kills_under_contention_keep_every_version(server: NatsServer) -> None:
    """Four writers, one aggregate, the server killed and restarted twice: 1..n, each command once.

    A read that a kill cuts is LogUnavailable: the writer calls again, as every user of `handle` does.
    """
    logs = [await log_of(server) for _ in range(4)]
    await handle(logs[0], "session", SESSION, session.Open(opened()), cause("open"))
    done: list[int] = []

    async def persistently(writer: int, number: int) -> Handled:
        while True:
            try:
                command = start_request(number)
                return await handle(logs[writer], "session", SESSION, command, cause(f"start {number}"))
            except LogUnavailable:
                await asyncio.sleep(0.01)

    async def write(writer: int) -> None:
        for number in range(writer, 40, 4):
            async with asyncio.timeout(60):
                handled = await persistently(writer, number)
            assert handled.events == (request_started(number),)
            done.append(number)

    writing = [asyncio.create_task(write(writer)) for writer in range(4)]
    for at_least in (8, 20):
        async with asyncio.timeout(60):
            while len(done) < at_least:
                await asyncio.sleep(0.001)
        await server.kill()
        await server.start()
    await asyncio.gather(*writing)
    history = await logs[0].history("session", SESSION)
    assert [item.version for item in history.recorded] == list(range(1, 42))
    assert sorted(done) == list(range(40))
