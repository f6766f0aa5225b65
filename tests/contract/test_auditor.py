"""The auditor over a live log, and over copies of it that somebody altered."""

from collections.abc import AsyncIterator, Callable

import pytest

from events import session
from events.envelope import encode_commit
from events.merkle import Tree, leaf_bytes, leaf_hash
from services.auditor.verify import Audit, Report, verify
from services.handle import handle
from services.log import EventLog, StoredMessage, Writer
from services.nkey import new_seed
from tests.aggregates import cause, generation_ended, opened, start_request, ulid
from tests.nats_server import NatsServer, nats_server


@pytest.fixture
async def server() -> AsyncIterator[NatsServer]:
    async with nats_server() as running:
        yield running


def writers_of(server: NatsServer) -> dict[str, tuple[str, ...]]:
    gateway = Writer.load(server.access.seed_path("gateway")).public_key
    orchestrator = Writer.load(server.access.seed_path("orchestrator")).public_key
    return {gateway: ("session",), orchestrator: ("session", "node", "pool")}


async def log_of(server: NatsServer, role: str = "gateway") -> EventLog:
    return await EventLog.open(await server.connect(role), Writer.load(server.access.seed_path(role)))


async def written(server: NatsServer) -> list[StoredMessage]:
    """A small honest log, read by the auditor's own login."""
    log, other = await log_of(server), await log_of(server, "orchestrator")
    for number in (1, 2):
        aggregate = ulid(100 + number)
        await handle(log, "session", aggregate, session.Open(opened()), cause(f"open {number}"))
        await handle(log, "session", aggregate, start_request(1), cause(f"start {number}"))
        ended = session.EndGeneration(generation_ended(1))
        await handle(other, "session", aggregate, ended, cause(f"end {number}"))
    reader = await EventLog.open(await server.connect("auditor"), None)
    return [message async for message in reader.read(0, follow=False)]


def audited(messages: list[StoredMessage], server: NatsServer) -> Report:
    audit = Audit(writers_of(server))
    for message in messages:
        audit.take(message)
    return audit.report()


async def test_an_honest_log_is_sound(server: NatsServer) -> None:
    messages = await written(server)
    reader = await EventLog.open(await server.connect("auditor"), None)
    report = await verify(reader.read(0, follow=False), writers_of(server))
    assert report.sound, report.findings
    assert (report.messages, report.events, report.aggregates) == (6, 6, 2)
    leaves = [leaf_hash(leaf_bytes(*message)) for message in messages]
    assert report.root == Tree(leaves).root().hex()


ALTERATIONS: dict[str, tuple[Callable[[list[StoredMessage]], list[StoredMessage]], set[str]]] = {
    "a removed message": (lambda log: [*log[:2], *log[3:]], {"gap"}),
    "a changed payload": (
        lambda log: [
            log[0]._replace(payload=log[0].payload.replace(b'"key:1"', b'"key:2"')),
            *log[1:],
        ],
        {"signature_invalid"},
    ),
    "a changed subject": (
        lambda log: [log[0]._replace(subject=log[3].subject), *log[1:]],
        {"malformed_commit", "order"},
    ),
    "a changed expectation": (
        lambda log: [
            *log[:1],
            log[1]._replace(headers={**log[1].headers, "Nats-Expected-Last-Subject-Sequence": "9"}),
            *log[2:],
        ],
        {"signature_invalid", "order"},
    ),
    "no signature": (
        lambda log: [log[0]._replace(headers={**log[0].headers, "cp-sig": ""}), *log[1:]],
        {"signature_invalid"},
    ),
    "a message twice": (
        lambda log: [*log, log[1]._replace(sequence=7)],
        {"order", "version", "commit_id"},
    ),
    "two messages exchanged": (
        lambda log: [log[0], log[2]._replace(sequence=2), log[1]._replace(sequence=3), *log[3:]],
        {"order", "version"},
    ),
}


@pytest.mark.parametrize("name", sorted(ALTERATIONS))
async def test_an_altered_log_is_not(server: NatsServer, name: str) -> None:
    alter, codes = ALTERATIONS[name]
    messages = await written(server)
    before, after = audited(messages, server), audited(alter(messages), server)
    assert codes <= {finding.code for finding in after.findings}
    assert after.root != before.root


async def test_a_writer_may_write_its_own_kinds_only(server: NatsServer) -> None:
    """The server already refuses it; the auditor does not rely on the server."""
    stranger = Writer(new_seed(), server.directory / "head")
    client = await server.connect("orchestrator")
    await (await EventLog.open(client, stranger)).append(
        encode_commit("session", ulid(1), 1, (opened(),), cause("x")), 0
    )
    reader = await EventLog.open(await server.connect("auditor"), None)
    report = await verify(reader.read(0, follow=False), writers_of(server))
    assert [finding.code for finding in report.findings] == ["writer"]
