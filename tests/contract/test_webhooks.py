"""`POST /webhooks/keeperhub` on a running gateway: what is proven is kept once, what is not is counted, and
whoever reads it finds all of it.
"""

import asyncio
import contextlib
import json
import os
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from typer.testing import CliRunner

from events import workflow
from events.envelope import Cause
from events.ids import run_id_of
from services import bus
from services.cli import app
from services.credentials import engine_of
from services.handle import handle
from services.keeper.capability import LIFE_S, capability
from services.keeper.hook_secret import FILE, FILE_BEFORE, HookSecret, key_id_of
from services.keeper.inbox import MOST_TALES, Hint, Inbox
from services.keeper.signature import sign
from services.log import EventLog, Writer
from tests.aggregates import ulid
from tests.contract.gateway_house import House, house, until
from tests.postgres import server

pytestmark = pytest.mark.asyncio(loop_scope="module")
PATH = "/webhooks/keeperhub"
WITHIN_S = 30.0


@dataclass
class World:
    """A gateway, its secret, and a keeper that asks for runs."""

    built: House
    secret: HookSecret
    events: EventLog
    inbox: Inbox
    runs: int = 0

    async def run(self, name: workflow.WorkflowName = "stream-start") -> str:
        """A new run that stands in the log."""
        self.runs += 1
        requested = workflow.Requested(name, "stream", ulid(self.runs), "start", 1, {"network": "31337"})
        run_id = run_id_of(name, requested.subject_id, requested.step, requested.attempt)
        cause = Cause(f"test-{run_id}", run_id, f"test-{run_id}", time.time_ns() // 1_000_000)
        await handle(self.events, "workflow", run_id, workflow.Request(requested), cause)
        return run_id

    def signed(
        self,
        body: bytes,
        *,
        key: bytes | None = None,
        at: int | None = None,
        delivery: str | None = None,
        path: str = PATH,
    ) -> dict[str, str]:
        key, at = key or self.secret.key, int(time.time()) if at is None else at
        delivery = delivery or "d-" + os.urandom(8).hex()
        made = sign(
            key,
            method="POST",
            path=path,
            caller="runner",
            delivery=delivery,
            execution="exec_1",
            timestamp_unix_s=at,
            body=body,
        )
        return {
            "X-KeeperHub-Timestamp": str(at),
            "X-KeeperHub-Delivery": delivery,
            "X-KeeperHub-Execution": "exec_1",
            "X-KeeperHub-Caller": "runner",
            "X-KeeperHub-Key-Id": key_id_of(key),
            "X-KeeperHub-Signature": f"v1={made}",
        }

    def bearer(
        self, run_id: str, name: workflow.WorkflowName = "stream-start", age_s: int = 0
    ) -> dict[str, str]:
        asked_ms = (int(time.time()) - age_s) * 1000
        return {"Authorization": f"Bearer {capability(self.secret.key, run_id, name, asked_ms)}"}

    async def post(self, body: bytes, headers: dict[str, str]) -> httpx.Response:
        async with self.built.client(None) as client:
            return await client.post(PATH, content=body, headers=headers)

    async def counted(self) -> dict[str, float]:
        """Callbacks by outcome and forgeries by reason."""
        async with self.built.client(None) as client:
            text = (await client.get("/metrics")).text
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name in ("computepool_callbacks_total", "computepool_callbacks_forged_total"):
                    found[sample.labels.get("outcome") or sample.labels["reason"]] = sample.value
        return found

    async def hints_of(self, run_id: str) -> list[Hint]:
        """What the keeper finds of it now."""
        return [hint for hint in await self.inbox.unmarked() if hint.run_key == run_id]


def told(run_id: str, event: str = "stream_started", tx_hash: str = "0x" + "ab" * 32, **more: Any) -> bytes:
    return json.dumps({"event": event, "run_key": run_id, "tx_hash": tx_hash, **more}).encode()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with house(tmp_path_factory.mktemp("webhooks"), gateway=False) as built:
        before = HookSecret.of(built.nats.settings).key
        keys = built.nats.settings.state_dir / "keys"
        (keys / FILE).rename(keys / FILE_BEFORE)
        await built.start_gateway()
        client = await bus.connect(built.nats.settings, "keeper")
        engine = engine_of(built.database_url)
        events = await EventLog.open(client, Writer.load(built.nats.settings.seeds_dir / "keeper.nk"))
        secret = HookSecret.of(built.nats.settings)
        assert (secret.previous, secret.key != before) == (before, True)
        yield World(built, secret, events, Inbox(engine, poll_s=0.2))
        await engine.dispose()
        await bus.close(client)


async def test_a_signed_callback_is_kept_once_however_often_it_comes(world: World) -> None:
    run_id = await world.run()
    body = told(run_id)
    first = await world.post(body, world.signed(body, delivery="d-ten"))
    assert (first.status_code, first.json()) == (200, {"received": True})
    for _ in range(10):
        again = await world.post(body, world.signed(body, delivery="d-ten"))
        assert (again.status_code, again.json()) == (200, {"received": True, "duplicate": True})
    [hint] = await world.hints_of(run_id)
    assert (hint.delivery, hint.event, hint.transaction_hash) == ("d-ten", "stream_started", "0x" + "ab" * 32)
    await world.inbox.mark(hint, "applied")
    assert await world.hints_of(run_id) == []
    late = await world.post(body, world.signed(body, delivery="d-ten"))
    assert late.json() == {"received": True, "duplicate": True}


async def test_the_key_before_is_taken_while_keys_rotate(world: World) -> None:
    run_id = await world.run()
    body = told(run_id)
    assert world.secret.previous is not None
    answer = await world.post(body, world.signed(body, key=world.secret.previous))
    assert (answer.status_code, answer.json()) == (200, {"received": True})


async def test_a_test_callback_from_the_command_line_is_taken(world: World) -> None:
    run_id = await world.run()
    environment = world.built.environment | {"COMPUTEPOOL_GATEWAY_URL": world.built.url}
    typed = ["webhook", "trigger", "stream_started", "--run", run_id, "--json"]
    found = await asyncio.to_thread(CliRunner().invoke, app, typed, env=environment)
    assert json.loads(found.stdout)["answer"] == '{"received":true}'
    [hint] = await world.hints_of(run_id)
    assert hint.transaction_hash is None


async def test_ten_at_the_same_moment_are_one(world: World) -> None:
    run_id = await world.run()
    body = told(run_id)
    sent = [world.post(body, world.signed(body, delivery="d-together")) for _ in range(10)]
    answers = await asyncio.gather(*sent)
    assert [answer.status_code for answer in answers] == [200] * 10
    assert sum("duplicate" not in answer.json() for answer in answers) == 1
    assert len(await world.hints_of(run_id)) == 1


async def test_forgeries_are_refused_and_counted_by_reason(world: World) -> None:
    run_id, other = await world.run(), await world.run()
    body = told(run_id)
    now = int(time.time())
    before = await world.counted()
    forgeries: list[tuple[str, bytes, dict[str, str]]] = [
        ("unknown_key", body, world.signed(body, key=b"f" * 64)),
        ("stale", body, world.signed(body, at=now - 400)),
        ("stale", body, world.signed(body, at=now + 400)),
        ("bad_signature", body + b" ", world.signed(body)),
        ("bad_signature", body, world.signed(body, path="/webhooks")),
        ("bad_signature", body, {**world.signed(body), "X-KeeperHub-Timestamp": str(now + 1)}),
        ("bad_signature", body, {**world.signed(body), "X-KeeperHub-Delivery": "d-another"}),
        ("no_proof", body, {}),
        ("bad_capability", body, {"Authorization": "Bearer cp_something"}),
        ("expired", body, world.bearer(run_id, age_s=LIFE_S + 1)),
        ("other_run", body, world.bearer(other)),
    ]
    for reason, sent, headers in forgeries:
        answer = await world.post(sent, headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "callback_forged"), reason
    raw = await post_raw(world, body, b"X-KeeperHub-Signature: v1=\xe9")
    assert raw.startswith(b"HTTP/1.1 401")
    after = await world.counted()
    reasons = [reason for reason, _, _ in forgeries] + ["not_ascii"]
    for reason in set(reasons):
        assert after.get(reason, 0) - before.get(reason, 0) == reasons.count(reason), reason
    assert await world.hints_of(run_id) == []


async def post_raw(world: World, body: bytes, header: bytes) -> bytes:
    """The beginning of the answer to a request that no client of good manners would send."""
    port = int(world.built.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%b\r\n\r\n" % (
        PATH.encode(),
        len(body),
        header,
    )
    writer.write(head + body)
    answer = await asyncio.wait_for(reader.readline(), WITHIN_S)
    writer.close()
    return answer


async def test_what_cannot_be_is_409_whoever_says_it(world: World) -> None:
    run_id = await world.run()
    wrong_event = told(run_id, "stream_stopped")
    nobodys = told(run_id_of("propose", ulid(1), "never", 1))
    no_id = told("r1")
    for body, headers in (
        (wrong_event, world.signed(wrong_event)),
        (wrong_event, world.bearer(run_id)),
        (nobodys, world.signed(nobodys)),
        (no_id, world.signed(no_id)),
    ):
        answer = await world.post(body, headers)
        assert (answer.status_code, answer.json()["code"]) == (409, "callback_impossible")
        assert answer.json()["retryable"] is False


async def test_malformed_and_too_big(world: World) -> None:
    for body in (b"", b"[1]", b'{"event":"stream_started"}'):
        answer = await world.post(body, world.signed(body))
        assert (answer.status_code, answer.json()["code"]) == (400, "callback_malformed")
    run_id = await world.run()
    large = told(run_id, padding="x" * (64 * 1024))
    answer = await world.post(large, world.signed(large))
    assert (answer.status_code, answer.json()["code"]) == (413, "request_too_large")


async def test_a_false_body_does_not_keep_the_true_one_out(world: World) -> None:
    run_id = await world.run()
    headers = world.bearer(run_id)
    false, true = told(run_id, tx_hash="0x" + "00" * 32), told(run_id)
    assert (await world.post(false, headers)).json() == {"received": True}
    [lie] = await world.hints_of(run_id)
    await world.inbox.mark(lie, "mismatch")
    assert (await world.post(true, headers)).json() == {"received": True}
    [truth] = await world.hints_of(run_id)
    assert truth.transaction_hash == "0x" + "ab" * 32
    await world.inbox.mark(truth, "applied")
    for body in (true, false, told(run_id, tx_hash="0x" + "11" * 32)):
        assert (await world.post(body, headers)).json() == {"received": True, "duplicate": True}
    assert await world.hints_of(run_id) == []


async def test_one_capability_cannot_fill_the_table(world: World) -> None:
    run_id = await world.run()
    headers = world.bearer(run_id)
    answers = [await world.post(told(run_id, tx_hash=f"0x{n:064x}"), headers) for n in range(MOST_TALES + 1)]
    assert [answer.status_code for answer in answers] == [200] * MOST_TALES + [429]
    assert answers[-1].json()["code"] == "callback_crowded"


async def test_in_any_order(world: World) -> None:
    run_ids = [await world.run() for _ in range(8)]
    bodies = [told(run_id) for run_id in run_ids for _ in range(2)]
    random.Random(4).shuffle(bodies)
    deliveries = {body: f"d-{number}" for number, body in enumerate(set(bodies))}
    for body in bodies:
        assert (await world.post(body, world.signed(body, delivery=deliveries[body]))).status_code == 200
    for run_id in run_ids:
        assert len(await world.hints_of(run_id)) == 1


async def test_storage_that_hangs_or_is_away_is_503_and_the_same_delivery_is_taken_later(
    world: World,
) -> None:
    run_id = await world.run()
    body = told(run_id)
    async with await psycopg.AsyncConnection.connect(world.built.database_url) as blocking:
        await blocking.execute("LOCK TABLE webhook_inbox IN ACCESS EXCLUSIVE MODE")
        answer = await world.post(body, world.signed(body, delivery="d-late"))
        assert (answer.status_code, answer.json()["code"]) == (503, "callback_store_away")
        assert answer.json()["retryable"] is True
        await blocking.rollback()
    async with database_away(world.built.database_url):
        answer = await world.post(body, world.signed(body, delivery="d-late"))
        assert (answer.status_code, answer.json()["code"]) == (503, "callback_store_away")

    async def taken() -> bool:
        return (await world.post(body, world.signed(body, delivery="d-late"))).status_code == 200

    await until(taken)
    assert len(await world.hints_of(run_id)) == 1


@contextlib.asynccontextmanager
async def database_away(url: str) -> AsyncIterator[None]:
    """Nobody can connect, and who was connected is thrown out."""
    database = str(conninfo_to_dict(url)["dbname"])
    name = sql.Identifier(database)
    admin_url = (await server()).url("postgres")
    async with await psycopg.AsyncConnection.connect(admin_url, autocommit=True) as admin:
        await admin.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(name))
        gone = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
        await admin.execute(gone, (database,))
        try:
            yield
        finally:
            await admin.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(name))


async def next_of(hints: AsyncIterator[Hint], run_id: str) -> Hint:
    async with asyncio.timeout(WITHIN_S):
        async for hint in hints:
            if hint.run_key == run_id:
                return hint
    raise AssertionError("the reader ended")


async def test_a_notification_wakes_the_reader_and_polling_finds_what_none_told(world: World) -> None:
    patient = Inbox(world.inbox._engine, poll_s=3600)
    async with contextlib.aclosing(patient.hints()) as hints:
        woken, first = await world.run(), asyncio.Event()

        async def read() -> Hint:
            first.set()
            return await next_of(hints, woken)

        reading = asyncio.create_task(read())
        await first.wait()
        body = told(woken)
        await world.post(body, world.signed(body))
        assert (await reading).run_key == woken, "an hour's poll did not find it: the notification did"
    silent = await world.run()
    async with contextlib.aclosing(world.inbox.hints()) as hints:
        async with await psycopg.AsyncConnection.connect(world.built.database_url) as direct:
            await direct.execute(
                "INSERT INTO webhook_inbox (proof, delivery, key_id, execution, run_key, event)"
                " VALUES ('signature', 'd-silent', 'k', 'e', %s, 'stream_started')",
                (silent,),
            )
        assert (await next_of(hints, silent)).delivery == "d-silent"


async def test_a_reader_outlives_its_connections(world: World) -> None:
    run_id, later = await world.run(), await world.run()
    body = told(run_id)
    await world.post(body, world.signed(body))
    async with contextlib.aclosing(world.inbox.hints()) as hints:
        await world.inbox.mark(await next_of(hints, run_id), "stale")
        async with database_away(world.built.database_url):
            pass
        body = told(later)

        async def taken() -> bool:
            return (await world.post(body, world.signed(body, delivery="d-outlived"))).status_code == 200

        await until(taken)
        assert (await next_of(hints, later)).delivery == "d-outlived"


async def test_what_is_old_is_forgotten_and_nothing_else(world: World) -> None:
    run_id = await world.run()
    body = told(run_id)
    await world.post(body, world.signed(body, delivery="d-old"))
    async with await psycopg.AsyncConnection.connect(world.built.database_url) as direct:
        await direct.execute(
            "UPDATE webhook_inbox SET received_at = now() - interval '8 days' WHERE delivery = 'd-old'"
        )
    assert await world.inbox.prune() == 1
    assert await world.inbox.prune() == 0
