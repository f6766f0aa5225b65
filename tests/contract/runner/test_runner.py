"""The runner as a backend: keys, refusals, contents that change, logs, signed callbacks, and going on after
a stop.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from services.credentials import engine_of
from services.keeper.backend import BackendAway, BackendRefused
from services.keeper.runner.actions.step import Signing
from services.keeper.runner.runner import Runner
from services.keeper.signature import sign
from tests.contract.runner.conformance.row import export, keep, node
from tests.postgres import database

WITHIN_S = 60.0
PLAIN = export("plain", (keep("a", "{{@trigger:Trigger.x}}"),), "trigger>a")


@contextlib.asynccontextmanager
async def runner_of(engine: AsyncEngine, **more: Any) -> AsyncIterator[Runner]:
    runner = Runner(engine, **more)
    try:
        yield runner
    finally:
        await runner.close()


@contextlib.asynccontextmanager
async def house(**more: Any) -> AsyncIterator[tuple[Runner, AsyncEngine]]:
    async with database() as url:
        engine = engine_of(url)
        async with runner_of(engine, **more) as runner:
            yield runner, engine
        await engine.dispose()


@contextlib.asynccontextmanager
async def callback_server(answer: Any) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/webhooks/keeperhub", answer)
    served = web.AppRunner(app)
    await served.setup()
    await web.TCPSite(served, "127.0.0.1", 0).start()
    host, port = served.addresses[0][:2]
    try:
        yield f"http://{host}:{port}/webhooks/keeperhub"
    finally:
        await served.cleanup()


async def test_the_same_key_and_input_are_the_same_execution_also_at_the_same_time() -> None:
    async with house() as (runner, _):
        workflow = await runner.ensure_workflow(PLAIN)
        ids = await asyncio.gather(*(runner.execute(workflow, {"x": "1"}, "key") for _ in range(8)))
        assert len(set(ids)) == 1
        assert (await runner.wait(ids[0], WITHIN_S)).status == "success"
        assert await runner.execute(workflow, {"x": "1"}, "key") == ids[0]
        assert len(await runner.list_executions(workflow)) == 1


async def test_the_same_key_with_another_input_is_a_conflict() -> None:
    async with house() as (runner, _):
        workflow = await runner.ensure_workflow(PLAIN)
        first = await runner.execute(workflow, {"x": "1"}, "key")
        with pytest.raises(BackendRefused, match=first) as refused:
            await runner.execute(workflow, {"x": "2"}, "key")
        assert (refused.value.code, refused.value.status) == ("idempotency_conflict", 409)
        assert not refused.value.retryable


async def test_a_key_that_somebody_is_just_taking_is_in_progress() -> None:
    async with house() as (runner, engine):
        workflow = await runner.ensure_workflow(PLAIN)
        await runner.execute(workflow, {"x": "1"}, "other")
        async with engine.begin() as taking:
            await taking.execute(
                text(
                    "INSERT INTO runner_executions (execution_id, workflow_id, content_hash, idempotency_key,"
                    " input_hash, input, status, started_unix_ms)"
                    " SELECT 'mine', workflow_id, content_hash, 'key',"
                    " input_hash, input, 'running', started_unix_ms FROM runner_executions"
                )
            )
            with pytest.raises(BackendRefused) as refused:
                await runner.execute(workflow, {"x": "1"}, "key")
            assert (refused.value.code, refused.value.retryable) == ("idempotency_in_progress", True)
            await taking.rollback()
        assert await runner.execute(workflow, {"x": "1"}, "key") != "mine"


async def test_what_is_not_there_or_not_to_be_started_is_refused() -> None:
    scheduled = export("cron", (), "", {"triggerType": "Schedule", "scheduleCron": "* * * * *"})
    async with house() as (runner, _):
        for ask, code in (
            (runner.execute("wf_nobody", {}, "k"), "not_found"),
            (runner.status("exec_nobody"), "not_found"),
            (runner.logs("exec_nobody"), "not_found"),
            (runner.ensure_workflow({"version": 1}), "invalid_input"),
            (runner.execute(await runner.ensure_workflow(PLAIN), {"x": float("nan")}, "k"), "invalid_input"),
            (runner.execute(await runner.ensure_workflow(PLAIN), {}, ""), "invalid_input"),
            (runner.execute(await runner.ensure_workflow(scheduled), {}, "k"), "invalid_input"),
        ):
            with pytest.raises(BackendRefused) as refused:
                await ask
            assert refused.value.code == code
        await runner.health()
    with pytest.raises(BackendAway):
        await runner.health()


async def test_an_execution_goes_on_with_the_content_that_it_began_with() -> None:
    waits = export(
        "plain", (node("if", "Condition", condition="true"), keep("old", "1")), "trigger>if if:true>old"
    )
    async with house() as (runner, engine):
        workflow = await runner.ensure_workflow(waits)
        first = await runner.execute(workflow, {}, "first")
        await runner.wait(first, WITHIN_S)
        assert await runner.ensure_workflow(PLAIN) == workflow
        assert (
            await runner.wait(await runner.execute(workflow, {"x": "1"}, "2"), WITHIN_S)
        ).status == "success"
        await forget(engine, first, "old")
        async with runner_of(engine) as other:
            assert await other.resume() == 1
            assert (await other.wait(first, WITHIN_S)).status == "success"
            assert [log.node_id for log in await other.logs(first)] == ["old", "if", "trigger"]
            assert await other.ensure_workflow(waits) == workflow
            third = await other.execute(workflow, {}, "3")
            await other.wait(third, WITHIN_S)
            assert [log.node_id for log in await other.logs(third)] == ["old", "if", "trigger"]


async def forget(engine: AsyncEngine, execution_id: str, *nodes: str) -> None:
    """As if the process had died before these were written down."""
    async with engine.begin() as connection:
        await connection.execute(
            text("DELETE FROM runner_nodes WHERE execution_id = :id AND node_id = ANY(:nodes)"),
            {"id": execution_id, "nodes": list(nodes)},
        )
        await connection.execute(
            text("UPDATE runner_executions SET status = 'running', output = NULL WHERE execution_id = :id"),
            {"id": execution_id},
        )


async def test_secrets_are_masked_in_logs_and_not_in_what_is_sent() -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.headers["Authorization"])
        return web.json_response({"received": True})

    async with callback_server(answer) as url, house(http_allowed=(url,)) as (runner, _):
        workflow = await runner.ensure_workflow(
            export(
                "callback",
                (
                    node(
                        "back",
                        "HTTP Request",
                        endpoint=url,
                        httpHeaders={"Authorization": "Bearer {{@trigger:Trigger.callback_secret}}"},
                    ),
                ),
                "trigger>back",
            )
        )
        execution = await runner.execute(workflow, {"callback_secret": "cpcb1.abc"}, "key")
        assert (await runner.wait(execution, WITHIN_S)).status == "success"
        assert asked == ["Bearer cpcb1.abc"]
        assert "cpcb1" not in repr(await runner.logs(execution))


async def test_a_callback_is_signed_anew_on_every_attempt_with_one_delivery_id() -> None:
    got: list[tuple[dict[str, str], bytes]] = []
    attempts: list[tuple[Any, ...]] = []

    class Written:
        async def attempted(self, *said: Any) -> None:
            attempts.append(said)

    async def answer(request: web.Request) -> web.Response:
        got.append((dict(request.headers), await request.read()))
        return web.Response(status=503 if len(got) < 3 else 200)

    async with callback_server(answer) as url:
        signing = Signing(url, "key-1", b"cp-test-secret")
        async with house(http_allowed=(url,), signing=signing, deliveries=Written()) as (runner, _):
            workflow = await runner.ensure_workflow(
                export(
                    "signed",
                    (
                        node(
                            "back",
                            "HTTP Request",
                            endpoint=url,
                            httpBody='{"a": 1}',
                            retryAttempts=2,
                            retryDelay=0,
                        ),
                    ),
                    "trigger>back",
                )
            )
            execution = await runner.execute(workflow, {}, "key")
            assert (await runner.wait(execution, WITHIN_S)).status == "success"
    assert len({headers["X-KeeperHub-Delivery"] for headers, _ in got}) == 1
    for headers, body in got:
        signed = sign(
            b"cp-test-secret",
            method="POST",
            path="/webhooks/keeperhub",
            caller=headers["X-KeeperHub-Caller"],
            delivery=headers["X-KeeperHub-Delivery"],
            execution=execution,
            timestamp_unix_s=int(headers["X-KeeperHub-Timestamp"]),
            body=body,
        )
        assert headers["X-KeeperHub-Signature"] == f"v1={signed}"
        assert headers["X-KeeperHub-Execution"] == execution
        assert headers["X-KeeperHub-Key-Id"] == "key-1"
    assert [(said[0], said[1], said[4]) for said in attempts] == [
        (got[0][0]["X-KeeperHub-Delivery"], execution, status) for status in (503, 503, 200)
    ]


def test_the_vector_of_the_signature() -> None:
    signed = sign(
        b"cp-test-secret",
        method="POST",
        path="/webhooks/keeperhub",
        caller="runner",
        delivery="d-0001",
        execution="exec-0001",
        timestamp_unix_s=1767225600,
        body=b'{"event":"stream_started","run_key":"r1","session_id":"s1","tx_hash":"0xab"}',
    )
    assert signed == "38f56372c557ec323dea71ec684a3b9d2846d5eb25a705895245c2809613a262"


async def test_state_is_a_workflows_own_and_compared_before_it_is_set() -> None:
    reads = export(
        "counter",
        (
            node("get", "State Get", key="n"),
            node(
                "set",
                "State Set",
                key="n",
                value="{{@trigger:Trigger.to}}",
                expectedVersion="{{@trigger:Trigger.at}}",
            ),
        ),
        "trigger>get get>set",
    )
    async with house() as (runner, engine):
        workflow = await runner.ensure_workflow(reads)

        async def run(key: str, to: str, at: str) -> tuple[str, Any, Any]:
            execution = await runner.execute(workflow, {"to": to, "at": at}, key)
            found = await runner.wait(execution, WITHIN_S)
            logs = {log.node_id: log.output for log in await runner.logs(execution)}
            return found.status, logs["get"], logs["set"]

        assert await run("1", "one", "") == (
            "success",
            {"success": True, "exists": False, "value": None},
            {"success": True, "created": True, "version": 1},
        )
        status, got, _ = await run("2", '{"b":[1]}', "1")
        assert (status, got) == ("success", {"success": True, "exists": True, "value": "one", "version": 1})
        status, got, refused = await run("3", "three", "1")
        assert (status, got["value"], refused["reason"]) == ("error", {"b": [1]}, "conflict")
        (execution,) = [found for found in await runner.list_executions(workflow) if found.output][:1]
        await forget(engine, execution.execution_id, "set")
        async with runner_of(engine) as other:
            await other.resume()
            again = await other.wait(execution.execution_id, WITHIN_S)
            assert (again.status, again.output["version"]) == ("success", 2)
