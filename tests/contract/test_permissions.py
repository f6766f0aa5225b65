"""The permission matrix, role by subject class, asserted on a live server with the generated configuration.

Every subject class is tried by every role; what the server lets through must be exactly what stands here.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import nats
import pytest
from msgspec import to_builtins
from nats.aio.client import Client
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeout

from events.envelope import encode_commit
from services import dispatch
from services.access import ROLES, AccessInvalid, NatsAccess, server_conf
from services.bus import BusRefused, connect_with_seed
from services.log import EventLog, Writer
from services.nkey import kept_seed, new_seed, public_key
from shard_runtime import messages
from shard_runtime.probes import ProbeAsked, answer_to, probe_statement, probe_subject
from shard_runtime.signing import ReceiptKey, signer_of
from tests.aggregates import cause, opened, ulid
from tests.contract.permission_matrix import API, MAY_PUBLISH, MAY_SUBSCRIBE, PUBLISH, SOME, SUBSCRIBE, A, B
from tests.nats_server import NatsServer, nats_server


@dataclass
class Probe:
    """A client that remembers what the server refused."""

    client: Client
    inbox: str
    refused: list[str] = field(default_factory=list)

    async def lets(self, subject: str, *, subscribe: bool) -> bool:
        """Whether the server takes this publish or subscription: it says no before it answers a ping."""
        self.refused.clear()
        if subscribe:
            subscription = await self.client.subscribe(subject)
            await self.client.flush()
            await subscription.unsubscribe()
        else:
            await self.client.publish(subject, b"", reply=self.inbox + ".reply")
            await self.client._flush_pending(force_flush=True)
        await self.client.flush()
        assert all(subject.lower() in line.lower() for line in self.refused), self.refused
        return not self.refused


@pytest.fixture
async def server() -> AsyncIterator[NatsServer]:
    async with nats_server() as running:
        for node_id in (A, B):
            await admit(running, node_id)
        await running.access.reload()
        yield running


async def admit(server: NatsServer, node_id: str) -> None:
    seed = kept_seed(server.settings.seeds_dir / f"worker-{node_id}.nk")
    server.access.admit(node_id, public_key(seed))


async def probe_of(server: NatsServer, role: str) -> Probe:
    member = A if role == "worker" else role
    name = f"worker-{A}" if role == "worker" else role
    refused: list[str] = []

    async def failed(error: Exception) -> None:
        refused.append(str(error))

    inbox = messages.inbox_prefix(role, member)
    client = await nats.connect(
        server.url,
        nkeys_seed=str(server.settings.seeds_dir / f"{name}.nk"),
        inbox_prefix=inbox,
        error_cb=failed,
        allow_reconnect=False,
    )
    return Probe(client, inbox, refused)


def test_the_matrix_knows_every_role() -> None:
    assert set(MAY_PUBLISH) == set(MAY_SUBSCRIBE) == {*ROLES, "worker"}
    for allowed in MAY_PUBLISH.values():
        assert allowed
        assert allowed <= set(PUBLISH)


@pytest.mark.parametrize("role", [*ROLES, "worker"])
async def test_a_role_publishes_what_it_may_and_nothing_else(server: NatsServer, role: str) -> None:
    probe = await probe_of(server, role)
    let = {name for name, subject in PUBLISH.items() if await probe.lets(subject, subscribe=False)}
    await probe.client.close()
    assert let == MAY_PUBLISH[role]


@pytest.mark.parametrize("role", [*ROLES, "worker"])
async def test_a_role_hears_what_it_may_and_nothing_else(server: NatsServer, role: str) -> None:
    probe = await probe_of(server, role)
    let = {
        name
        for name, subject in SUBSCRIBE.items()
        if await probe.lets(subject or probe.inbox + ".>", subscribe=True)
    }
    await probe.client.close()
    assert let == MAY_SUBSCRIBE[role]


async def test_a_worker_pulls_and_acknowledges_its_own_commands_only(server: NatsServer) -> None:
    orchestrator = await server.connect("orchestrator")
    for node_id in (A, B):
        await dispatch.open_queue(orchestrator, node_id)
    for number in range(3):
        await dispatch.send(orchestrator, A, messages.Cancel(f"a{number}", SOME, 1, SOME, "test"))
        await dispatch.send(orchestrator, B, messages.Cancel(f"b{number}", SOME, 1, SOME, "test"))
    worker = await server.connect("worker", A)
    queue = await worker.jetstream().pull_subscribe_bind(
        messages.command_consumer(A), stream=messages.COMMANDS_STREAM
    )
    taken = await queue.fetch(3, timeout=2)
    for message in taken:
        await message.ack_sync()
    assert [messages.decode_command(item.data).command_id for item in taken] == ["a0", "a1", "a2"]
    with pytest.raises(NatsTimeout):
        await queue.fetch(1, timeout=0.2)


async def test_reports_tokens_and_heartbeats_cross_the_accounts(server: NatsServer) -> None:
    orchestrator, gateway = await server.connect("orchestrator"), await server.connect("gateway")
    worker = await server.connect("worker", A)
    heard: asyncio.Queue[str] = asyncio.Queue()

    async def hear(message: nats.aio.msg.Msg) -> None:
        heard.put_nowait(message.subject)

    async def answer(message: nats.aio.msg.Msg) -> None:
        await message.respond(b"ok")

    await orchestrator.subscribe(messages.alive_subject("*"), cb=hear)
    await gateway.subscribe(messages.tokens_subject(A, SOME), cb=answer)
    await asyncio.gather(orchestrator.flush(), gateway.flush())
    await worker.publish(messages.alive_subject(A), b"")
    assert await asyncio.wait_for(heard.get(), 2) == messages.alive_subject(A)
    assert (await worker.request(messages.tokens_subject(A, SOME), b"", timeout=2)).data == b"ok"
    stored = await worker.jetstream().publish(messages.report_subject(A, "slice_loaded"), b"{}")
    assert (stored.stream, stored.seq) == (messages.REPORTS_STREAM, 1)


@pytest.mark.parametrize("role", ["worker", "auditor", "projector"])
async def test_a_reply_subject_is_no_way_into_the_event_log(server: NatsServer, role: str) -> None:
    """Inside one account the server itself would write its answer there, past every permission."""
    gateway = await server.connect("gateway")
    log = await EventLog.open(gateway, Writer.load(server.access.seed_path("gateway")))
    await log.append(encode_commit("session", SOME, 1, (opened(),), cause("open")), 0)
    orchestrator = await server.connect("orchestrator")
    await dispatch.open_queue(orchestrator, A)
    await dispatch.send(orchestrator, A, messages.Cancel("a", SOME, 1, SOME, "test"))
    probe = await probe_of(server, role)
    asks = {
        "worker": [
            (messages.report_subject(A, "slice_loaded"), b"{}"),
            (f"{API}CONSUMER.MSG.NEXT.CP_COMMANDS.node_{A}", b"1"),
        ],
    }.get(role, [(f"{API}DIRECT.GET.CP_EVENTS", json.dumps({"seq": 1}).encode())])
    for subject, body in asks:
        for target in (f"cp.events.pool.{SOME}", f"cp.commands.{B}.generate", "cp.control"):
            await probe.client.publish(subject, body, reply=target)
    await probe.client._flush_pending(force_flush=True)
    await probe.client.flush()
    await probe.client.close()
    if role == "worker":
        await _until_reported(orchestrator, 3)
    assert await log.last_sequence() == 1
    admin = await server.connect("admin")
    assert (await admin.jetstream().stream_info(messages.COMMANDS_STREAM)).state.messages == 1


async def _until_reported(orchestrator: Client, count: int) -> None:
    """The reports behind the attack are stored: so its answers have been sent too."""
    jetstream = orchestrator.jetstream()
    await jetstream.add_consumer("CP_REPORTS", durable_name="orchestrator", ack_policy="explicit")
    queue = await jetstream.pull_subscribe_bind("orchestrator", stream="CP_REPORTS")
    found = 0
    while found < count:
        found += len(await queue.fetch(1, timeout=5))


async def test_the_gateway_answers_once_and_only_when_asked(server: NatsServer) -> None:
    probe = await probe_of(server, "gateway")
    worker = await server.connect("worker", A)
    asked: asyncio.Queue[str] = asyncio.Queue()

    async def hear(message: nats.aio.msg.Msg) -> None:
        asked.put_nowait(message.reply)

    await probe.client.subscribe(messages.tokens_subject(A, SOME), cb=hear)
    await probe.client.flush()
    answering = asyncio.create_task(worker.request(messages.tokens_subject(A, SOME), b"", timeout=5))
    reply = await asyncio.wait_for(asked.get(), 2)
    assert await probe.lets(reply, subscribe=False)
    assert not await probe.lets(reply, subscribe=False)
    await answering
    await probe.client.close()


async def test_a_node_answers_the_gateways_probes_and_nobody_elses_node_does(server: NatsServer) -> None:
    """Also after the server has read its user list again."""
    gateway, worker = await server.connect("gateway"), await server.connect("worker", A)
    key = ReceiptKey(bytes(31) + b"\7")

    async def answer(message: nats.aio.msg.Msg) -> None:
        await message.respond(answer_to(message.data, A, key) or b"")

    await worker.subscribe(probe_subject(A), cb=answer)
    await worker.flush()
    for _ in range(2):
        asked = ProbeAsked("ab" * 32, "0x" + "0A" * 20, 5)
        reply = await gateway.request(probe_subject(A), json.dumps(to_builtins(asked)).encode(), timeout=5)
        signature = json.loads(reply.data)["signature"]
        assert signer_of(probe_statement(A, asked), signature) == key.address
        await server.access.reload()
    with pytest.raises(NoRespondersError):
        await gateway.request(probe_subject(B), b"{}", timeout=5)


async def test_joining_and_leaving_disturbs_nobody_else(server: NatsServer) -> None:
    others = [await server.connect(role) for role in ("gateway", "orchestrator", "projector")]
    stays, goes = await server.connect("worker", A), await server.connect("worker", B)
    third = ulid(4)
    await admit(server, third)
    await server.access.reload()
    assert (await server.connect("worker", third)).is_connected
    gone = asyncio.Event()

    async def disconnected() -> None:
        gone.set()

    goes._disconnected_cb = disconnected
    server.access.expel(B)
    await server.access.reload()
    await asyncio.wait_for(gone.wait(), 5)
    with pytest.raises(BusRefused):
        await server.connect("worker", B)
    for client in (*others, stays):
        await client.flush()
        assert client.stats["reconnects"] == 0


async def test_admitted_nodes_survive_a_restart_of_everything(server: NatsServer) -> None:
    await server.stop()
    server.access = NatsAccess.of(server.settings)
    server.access.write(port=server.port, store_dir=server.store_dir)
    await server.start()
    assert set(server.access.workers()) == {A, B}
    assert (await server.connect("worker", A)).is_connected


async def test_a_stranger_is_refused_at_once(server: NatsServer) -> None:
    for seed in (new_seed().decode(), kept_seed(server.directory / "own.nk").decode()):
        with pytest.raises(BusRefused):
            await connect_with_seed(server.url, seed, inbox="_INBOX_x", name="stranger", first_connect_s=5)


async def test_admission_is_idempotent_and_strict(server: NatsServer) -> None:
    before = (server.access.conf_dir / "accounts.conf").read_text()
    await admit(server, A)
    assert (server.access.conf_dir / "accounts.conf").read_text() == before
    key = server.access.workers()[A]
    for node_id, nats_key in ((ulid(9), key), (ulid(9), "Unonsense"), ("a.b", key), ("*", key), (">", key)):
        with pytest.raises(AccessInvalid):
            server.access.admit(node_id, nats_key)
    server.access.expel(ulid(9))
    assert (server.access.conf_dir / "accounts.conf").read_text() == before


async def test_no_seed_stands_in_the_configuration_and_files_are_private(server: NatsServer) -> None:
    for path in server.access.conf_dir.glob("*"):
        if path.is_file():
            assert path.stat().st_mode & 0o077 == 0
            assert "SU" not in {word[:2] for word in path.read_text().split() if len(word) == 58}
    for path in server.settings.seeds_dir.glob("*.nk"):
        assert path.stat().st_mode & 0o077 == 0


def test_compose_ships_the_same_configuration() -> None:
    with open("compose/nats.conf") as file:
        assert file.read() == server_conf("0.0.0.0", 4222, "/data/jetstream")
