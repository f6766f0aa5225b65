"""The orchestrator as a real process beside a real nats-server; the test speaks as gateway and as nodes."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from nats.aio.client import Client

from events import pool, session
from events.envelope import encode_commit
from services import control
from services.handle import handle
from services.log import EventLog, Writer
from services.nkey import kept_seed, public_key
from services.stack.stack import role_environment
from shard_runtime import messages
from tests.aggregates import FAR_FUTURE_MS, cause, digest, opened, proposed, registered, request_started, ulid
from tests.contract.gateway_house import until
from tests.nats_server import NatsServer, nats_server

POOL = ulid(500)
SESSION = ulid(900)


@dataclass
class House:
    """A server, an orchestrator, and what the test needs to speak to them."""

    server: NatsServer
    log: EventLog
    gateway: Client
    process: asyncio.subprocess.Process | None = None
    nodes: dict[int, Client] = field(default_factory=dict)

    async def launch(self) -> None:
        output = (self.server.directory / "orchestrator.log").open("ab")
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "services.orchestrator",
            env={**os.environ, **role_environment(self.server.settings)},
            stderr=output,
            start_new_session=True,
        )
        output.close()

    async def start(self) -> None:
        await self.launch()

        async def answers() -> bool:
            with contextlib.suppress(control.OrchestratorAway):
                await control.ask(self.gateway, control.Ping(), "ping", "ping", timeout_s=0.2)
                return True
            return False

        await until(answers)

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await self.process.wait()

    async def ask(self, request: control.Ask, command_id: str) -> control.Answer:
        return await control.ask(self.gateway, request, command_id, "correlation")

    async def register(self, number: int) -> control.Answer:
        seed = kept_seed(self.server.settings.seeds_dir / f"worker-{ulid(number)}.nk")
        claim = registered(number, nats_key=public_key(seed))
        return await self.ask(control.RegisterNode(claim), f"register {number}")

    async def join(self, number: int) -> Client:
        """Registered, connected with its own key, measured."""
        await self.register(number)
        client = self.nodes[number] = await self.server.connect("worker", ulid(number))
        report = messages.CapabilitiesMeasured(f"measured {number}", ulid(number), 10**9, 10.0, "cpu", "1")
        await self.report(number, report)
        return client

    async def report(self, number: int, report: messages.Report) -> None:
        subject = messages.report_subject(ulid(number), messages.kind_of(report))
        await self.nodes[number].jetstream().publish(subject, messages.encode(report))

    async def commands(self, number: int, count: int) -> list[messages.Command]:
        consumer = messages.command_consumer(ulid(number))
        subscription = (
            await self.nodes[number]
            .jetstream()
            .pull_subscribe_bind(consumer, stream=messages.COMMANDS_STREAM)
        )
        found: list[messages.Command] = []
        while len(found) < count:
            for message in await subscription.fetch(count - len(found), timeout=10):
                found.append(messages.decode_command(message.data))
                await message.ack()
        await subscription.unsubscribe()
        return found

    async def types(self, kind: str, aggregate_id: str) -> list[str]:
        return [recorded.type for recorded in (await self.log.history(kind, aggregate_id)).recorded]

    async def until_types(self, kind: str, aggregate_id: str, expected: list[str]) -> None:
        async def there() -> bool:
            return await self.types(kind, aggregate_id) == expected

        try:
            await until(there)
        except AssertionError:
            assert await self.types(kind, aggregate_id) == expected

    async def active_pool(self) -> None:
        """Nodes 1 (entry) and 2 serve POOL at epoch 1; each took its LoadSlice."""
        for number in (1, 2):
            await self.join(number)
        await self.ask(control.ProposePool(POOL, proposed()), "propose")
        for number in (1, 2):
            await self.ask(control.AcceptMember(POOL, ulid(number), "00"), f"accept {number}")
        plan = control.PlanPool(POOL, (ulid(1), ulid(2)))

        async def planned() -> bool:
            return (await self.ask(plan, "plan")).error_code is None

        await until(planned)
        for number in (1, 2):
            (load,) = await self.commands(number, 1)
            assert isinstance(load, messages.LoadSlice)
            await self.report(number, loaded(number, load))
        await self.until_types("pool", POOL, ACTIVE)


ACTIVE = [
    f"pool.{name}.v1"
    for name in (
        "proposed",
        "member_accepted",
        "member_accepted",
        "planned",
        "shard_ready",
        "shard_ready",
        "activated",
    )
]


def loaded(number: int, load: messages.LoadSlice) -> messages.SliceLoaded:
    mine = next(member for member in load.members if member.node_id == ulid(number))
    return messages.SliceLoaded(
        f"loaded {number} {load.epoch}",
        ulid(number),
        load.pool_id,
        load.epoch,
        mine.first_layer,
        mine.end_layer,
        load.weights_digest,
        1000,
        5,
    )


def ended(number: int, request_id: str) -> messages.GenerationEnded:
    return messages.GenerationEnded(
        f"ended {number} {request_id}",
        ulid(number),
        POOL,
        1,
        SESSION,
        request_id,
        "stop",
        5,
        3,
        digest(9),
        1,
        1,
    )


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with nats_server() as server:
        gateway = await server.connect("gateway")
        log = await EventLog.open(gateway, Writer.load(server.settings.seeds_dir / "gateway.nk"))
        running = House(server, log, gateway)
        await running.start()
        try:
            yield running
        finally:
            await running.stop()
            print((server.directory / "orchestrator.log").read_text()[-4000:])


async def start_request(house: House, *, single_request: bool = True) -> None:
    terms = opened(pool_id=POOL, single_request=single_request)
    await handle(house.log, "session", SESSION, session.Open(terms), cause("open"))
    command = session.StartRequest("key:1", request_started(1), 1)
    await handle(house.log, "session", SESSION, command, cause("start"))


async def test_a_registration_admits_the_node_and_a_second_claim_is_refused(house: House) -> None:
    first = await house.register(1)
    assert (first.sequence, first.events) == (1, ("node.registered.v1",))
    client = await house.server.connect("worker", ulid(1))
    assert client.is_connected
    again = await house.ask(control.RegisterNode(registered(1)), "register 1 with other keys")
    assert again.error_code == "node_already_registered"
    assert again.remedy
    assert await house.types("node", ulid(1)) == ["node.registered.v1"]


async def test_a_pool_goes_from_proposal_to_active_over_the_nodes_work_queues(house: House) -> None:
    await house.active_pool()
    history = (await house.log.history("pool", POOL)).recorded
    plan = history[3].event
    assert isinstance(plan, pool.Planned)
    assert [(s.node_id, s.first_layer, s.end_layer) for s in plan.shards] == [
        (ulid(1), 0, 4),
        (ulid(2), 4, 8),
    ]
    assert "GFLOP/s" in plan.explanation


async def test_a_plan_over_a_node_that_never_measured_itself_is_refused(house: House) -> None:
    await house.register(1)
    await house.ask(control.ProposePool(POOL, proposed()), "propose")
    await house.ask(control.AcceptMember(POOL, ulid(1), "00"), "accept")
    answer = await house.ask(control.PlanPool(POOL, (ulid(1),)), "plan")
    assert answer.error_code == "node_not_usable"


async def test_malformed_control_is_answered_not_dropped(house: House) -> None:
    reply = await house.gateway.request(control.CONTROL_SUBJECT, b'{"ask": 1}', timeout=5)
    assert msgspec.json.decode(reply.data, type=control.Answer).error_code == "malformed_control"


async def test_only_the_entry_nodes_report_ends_a_request_and_it_settles_once(house: House) -> None:
    await house.active_pool()
    await start_request(house)
    await house.report(2, ended(2, ulid(1)))
    forged = messages.encode(ended(1, ulid(1)))
    subject = messages.report_subject(ulid(2), "generation_ended")
    await house.nodes[2].jetstream().publish(subject, forged)
    for _ in range(2):
        await house.report(1, ended(1, ulid(1)))
    settled = ["opened", "request_started", "generation_ended", "settled"]
    await house.until_types("session", SESSION, [f"session.{name}.v1" for name in settled])
    report = (await house.log.history("session", SESSION)).recorded[2]
    assert report.command_id == f"ended 1 {ulid(1)}"
    text = (house.server.directory / "orchestrator.log").read_text()
    assert "report_dropped" in text
    assert "not_the_entry" in text


async def test_a_refused_generation_ends_its_request_without_a_commitment(house: House) -> None:
    await house.active_pool()
    await start_request(house)
    refused = msgspec.structs.replace(
        ended(1, ulid(1)),
        finish_reason="error",
        error_code="seal_broken",
        completion_tokens=0,
        output_commitment="",
    )
    await house.report(1, refused)
    settled = ["opened", "request_started", "generation_ended", "settled"]
    await house.until_types("session", SESSION, [f"session.{name}.v1" for name in settled])
    end = (await house.log.history("session", SESSION)).recorded[2].event
    assert (end.error_code, end.output_commitment) == ("seal_broken", None)


async def test_silence_loses_a_node_ends_its_requests_and_a_heartbeat_brings_it_back(house: House) -> None:
    await house.active_pool()
    await start_request(house)
    beat = messages.encode(messages.Alive(ulid(2), 1, 0, 0, ()))

    async def lost() -> bool:
        await house.nodes[2].publish(messages.alive_subject(ulid(2)), beat)
        return (await house.types("node", ulid(1)))[-1] == "node.lost.v1"

    await until(lost)
    assert "node.lost.v1" not in await house.types("node", ulid(2))
    failed = ["opened", "request_started", "generation_ended", "settled"]
    await house.until_types("session", SESSION, [f"session.{name}.v1" for name in failed])
    end = (await house.log.history("session", SESSION)).recorded[2].event
    assert (end.finish_reason, end.error_code) == ("error", "node_lost")
    (cancel,) = await house.commands(2, 1)
    assert isinstance(cancel, messages.Cancel)
    assert cancel.request_id == ulid(1)

    beat_1 = messages.encode(messages.Alive(ulid(1), 1, 0, 0, ()))

    async def recovered() -> bool:
        await house.nodes[1].publish(messages.alive_subject(ulid(1)), beat_1)
        return (await house.types("node", ulid(1)))[-1] == "node.recovered.v1"

    await until(recovered)


async def test_reports_and_deadlines_survive_a_killed_orchestrator(house: House) -> None:
    await house.active_pool()
    before = await house.log.last_sequence()
    await house.stop(signal.SIGKILL)
    await start_request(house)
    await house.report(1, ended(1, ulid(1)))
    await house.start()
    settled = ["opened", "request_started", "generation_ended", "settled"]
    await house.until_types("session", SESSION, [f"session.{name}.v1" for name in settled])
    assert await house.types("pool", POOL) == ACTIVE
    assert await house.log.last_sequence() >= before + 3


async def test_a_request_nobody_reports_on_ends_at_its_deadline(house: House) -> None:
    terms = opened(pool_id=POOL, single_request=True, close_by_unix_ms=FAR_FUTURE_MS)
    await handle(house.log, "session", SESSION, session.Open(terms), cause("open"))
    command = session.StartRequest("key:1", request_started(1, deadline_unix_ms=1), 1)
    await handle(house.log, "session", SESSION, command, cause("start"))
    await house.until_types(
        "session",
        SESSION,
        [f"session.{name}.v1" for name in ("opened", "request_started", "generation_ended", "settled")],
    )
    assert (await house.log.history("session", SESSION)).recorded[2].event.error_code == "no_report"


async def test_it_stops_cleanly_and_a_second_start_repeats_nothing(house: House) -> None:
    await house.active_pool()
    head = await house.log.last_sequence()
    assert await house.stop() == 0
    await house.start()
    assert await house.types("pool", POOL) == ACTIVE
    assert await house.log.last_sequence() == head


def test_role_environment_carries_the_state_directory(tmp_path: Path) -> None:
    from services.settings import Settings

    assert role_environment(Settings(state_dir=tmp_path))["COMPUTEPOOL_STATE_DIR"] == str(tmp_path)


async def test_it_stops_when_asked_even_while_the_server_is_away(house: House) -> None:
    await house.server.kill()
    async with asyncio.timeout(20):
        assert await house.stop() == 0


async def test_it_ends_with_its_error_when_it_cannot_read_the_log_at_its_start(house: House) -> None:
    await house.stop()
    subject = encode_commit("session", SESSION, 1, (opened(),), cause("open")).subject
    await house.gateway.jetstream().publish(subject, b"no commit")
    await house.launch()
    assert house.process is not None
    async with asyncio.timeout(60):
        assert await house.process.wait() == 1
    assert "MalformedCommit" in (house.server.directory / "orchestrator.log").read_text()
