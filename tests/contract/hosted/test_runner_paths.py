"""KeeperHub's REST paths at the embedded runner: who may call, and how each refusal looks."""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import text

from services.keeper.backend import BackendAway
from services.keeper.hosted.backend import HostedBackend
from services.keeper.hosted.patience import Patience
from services.keeper.hosted.rest import Rest
from services.keeper.hosted.webhook_trigger import WebhookTrigger
from services.keeper.runner.actions.table import KNOWN
from services.keeper.runner_http.keys import AccessKeys, hash_of
from services.keeper.runner_http.limits import WINDOW_S, Limit
from services.keeper.runner_http.schemas import FIELDS
from services.keeper.workflow_format import parse
from tests.contract.hosted.served import QUICK, Served, served
from tests.contract.runner.conformance.row import export, keep

PLAIN = export("plain", (keep("a", "{{@trigger:Trigger.session_id}}"),), "trigger>a")


@asynccontextmanager
async def calling(**more: Any) -> AsyncIterator[tuple[Served, httpx.AsyncClient]]:
    """As the organisation."""
    async with served(**more) as here:
        headers = {"Authorization": f"Bearer {here.organisation}"}
        async with httpx.AsyncClient(base_url=here.url, headers=headers, trust_env=False) as client:
            yield here, client


async def test_who_may_call_what() -> None:
    async with calling() as (here, client):
        workflow_id = await here.runner.ensure_workflow(PLAIN)

        async def asked(token: str | None, method: str, path: str) -> tuple[int, Any]:
            headers = {"Authorization": f"Bearer {token}" if token else "", "X-Request-Id": "r-1"}
            answer = await client.request(method, path, headers=headers)
            assert answer.headers["x-request-id"] == "r-1"
            return answer.status_code, answer.json()

        unauthorized = {
            "error": "unauthorized",
            "detail": "Missing or invalid authentication",
            "request_id": "r-1",
        }
        for token in (None, "kh_unknown", "sk_other"):
            assert await asked(token, "GET", "/api/workflows") == (401, unauthorized)
        status, body = await asked(here.webhook, "GET", "/api/workflows")
        assert (status, body["code"], body["expected"], body["received"]) == (
            401,
            "wrong_key_type",
            "kh_*",
            "wfb_*",
        )
        status, body = await asked(here.organisation, "POST", f"/api/workflows/{workflow_id}/webhook")
        assert (status, body["code"], body["expected"], body["received"]) == (
            401,
            "wrong_key_type",
            "wfb_*",
            "kh_*",
        )
        assert here.organisation not in json.dumps(body)
        reader, token = here.keys.issue("organisation", "reads", "mcp:read")
        assert (await asked(token, "GET", f"/api/workflows/{workflow_id}"))[0] == 200
        status, body = await asked(token, "POST", f"/api/workflows/{workflow_id}/execute")
        assert (status, body["error"]) == (403, "insufficient_scope")
        assert here.keys.revoke(reader.id)
        assert (await asked(token, "GET", "/api/workflows"))[0] == 401
        assert (await asked(None, "GET", "/api/chains"))[0] == 200


async def test_more_than_the_budget_is_refused_with_when_to_come_again() -> None:
    async with calling(per_minute=3) as (_, client):
        for left in (2, 1, 0):
            answer = await client.get("/api/workflows")
            assert (answer.status_code, answer.headers["x-ratelimit-remaining"]) == (200, str(left))
        answer = await client.get("/api/workflows")
        assert (answer.status_code, answer.json()["error"]) == (429, "rate_limited")
        assert answer.headers["x-ratelimit-limit"] == "3"
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        for _ in range(3):
            assert (
                await client.post("/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "initialize"})
            ).status_code == 200
        answer = await client.post("/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "initialize"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, -32029)
        assert "retry-after" in answer.headers


def test_a_budget_frees_itself_as_its_window_slides() -> None:
    now = 0.0
    limit = Limit(2, clock=lambda: now)
    assert [limit.take("a").retry_after_s for _ in range(3)] == [None, None, 60]
    assert limit.take("b").retry_after_s is None
    now = WINDOW_S - 1
    assert limit.take("a").retry_after_s == 1
    now = WINDOW_S
    assert limit.take("a").remaining == 1


async def test_a_key_is_kept_as_its_hash_and_for_its_owner() -> None:
    async with served() as here:
        path = here.keys._path
        kept = path.read_text()
        assert here.organisation not in kept
        assert hash_of(here.organisation) in kept
        assert os.stat(path).st_mode & 0o777 == 0o600
        assert AccessKeys(path.with_name("none")).find(here.organisation) is None


async def test_one_key_is_one_execution_and_a_replay_says_so() -> None:
    async with calling() as (here, client):
        workflow_id = await here.runner.ensure_workflow(PLAIN)
        path = f"/api/workflows/{workflow_id}/execute"

        async def execute(path: str, session: str, key: str = "key-1") -> httpx.Response:
            return await client.post(
                path, json={"input": {"session_id": session}}, headers={"Idempotency-Key": key}
            )

        first = (await execute(path, "s1")).json()
        assert set(first) == {"executionId", "status"}
        again = (await execute(f"/api/workflow/{workflow_id}/execute", "s1")).json()
        assert again == {**first, "idempotentReplay": True}
        conflict = await execute(path, "s2")
        assert conflict.status_code == 409
        said = conflict.json()
        assert (said["code"], said["retryable"]) == ("idempotency_conflict", False)
        assert said["originalExecutionId"] == first["executionId"]
        trigger = WebhookTrigger(here.url, SecretStr(here.webhook), QUICK)
        by_webhook = await trigger.fire(workflow_id, {"session_id": "s1"}, "key-1")
        assert by_webhook != first["executionId"]
        assert await trigger.fire(workflow_id, {"session_id": "s1"}, "key-1") == by_webhook
        await trigger.close()
        free = [(await client.post(path)).json()["executionId"] for _ in range(2)]
        assert free[0] != free[1]
        assert (await execute(path, "s1", "k" * 201)).status_code == 400


@pytest.mark.long
async def test_a_key_that_is_just_being_taken_is_in_progress() -> None:
    async with calling() as (here, client):
        workflow_id = await here.runner.ensure_workflow(PLAIN)
        path = f"/api/workflows/{workflow_id}/execute"
        first = (await client.post(path, headers={"Idempotency-Key": "key-0"})).json()["executionId"]
        copied = (
            "INSERT INTO runner_executions (execution_id, workflow_id, content_hash, idempotency_key,"
            " input_hash, input, status, started_unix_ms) SELECT 'exec_other', workflow_id, content_hash,"
            " 'key-1', input_hash, input, 'success', started_unix_ms FROM runner_executions"
            " WHERE execution_id = :first"
        )
        async with here.engine.connect() as taking:
            await taking.execute(text(copied), {"first": first})
            answer = await client.post(path, headers={"Idempotency-Key": "key-1"}, timeout=30)
            said = answer.json()
            assert (answer.status_code, said["code"], said["retryable"]) == (
                409,
                "idempotency_in_progress",
                True,
            )
            await taking.rollback()


async def test_an_input_may_still_be_given_at_the_top_and_not_in_both_ways() -> None:
    async with calling() as (here, client):
        workflow_id = await here.runner.ensure_workflow(PLAIN)
        path = f"/api/workflows/{workflow_id}/execute"
        old = await client.post(path, json={"session_id": "s1"})
        assert "x-deprecation-warning" in old.headers
        found = await here.runner.wait(old.json()["executionId"], 60)
        assert found.status == "success"
        assert (await client.post(path, json={"session_id": "s1", "input": {}})).status_code == 400
        assert (await client.post(path, json=["s1"])).status_code == 400
        assert (await client.post(path, json={"input": "s1"})).json()["error"] == "invalid_input"
        assert (await client.post(path, content=b"{")).status_code == 400


async def test_workflows_are_made_found_changed_and_removed() -> None:
    async with calling() as (_, client):
        body = {"name": "made", "nodes": PLAIN["nodes"], "edges": PLAIN["edges"]}
        bare = [{key: value for key, value in node.items() if key != "position"} for node in body["nodes"]]
        made = (await client.post("/api/workflows/create", json={**body, "nodes": bare})).json()
        path = f"/api/workflows/{made['id']}"
        assert made["enabled"] is True
        assert (await client.post("/api/workflows/create", json=body)).json()["error"] == "conflict"
        assert (await client.post("/api/workflows/create", json={**body, "name": ""})).status_code == 400
        assert (
            await client.post("/api/workflows/create", json={**body, "name": "x", "nodes": ["?"]})
        ).status_code == 400
        assert [one["name"] for one in (await client.get("/api/workflows")).json()] == ["made"]
        assert (await client.get("/api/workflows?projectId=p")).json() == []
        assert (await client.get("/api/workflows?limit=1&offset=1")).json() == []
        told = (await client.patch(path, json={"description": "Told."})).json()
        assert (told["description"], told["nodes"]) == ("Told.", made["nodes"])
        refusals: tuple[dict[str, Any], ...] = ({"name": "other"}, {"enabled": False}, {"nodes": []})
        for refused in refusals:
            assert (await client.patch(path, json=refused)).status_code == 400
        assert (await client.post(f"{path}/validate")).json()["valid"] is True
        download = await client.get(f"{path}/download")
        assert parse(download.json()).name == "made"
        assert "attachment" in download.headers["content-disposition"]
        assert (await client.delete(path)).json() == {"success": True}
        assert (await client.get(path)).json() == {"error": "Workflow not found"}
        taken = await client.post("/api/workflows/import", json=download.json())
        assert (taken.status_code, taken.json()["id"], taken.json()["integrationBindings"]) == (
            200,
            made["id"],
            [],
        )
        await client.post(f"{path}/execute", json={})
        for query in ("", "?force=true"):
            assert (await client.delete(path + query)).json()["error"] == "conflict"
        wrong = await client.post("/api/workflows/import", json={**download.json(), "version": 2})
        assert (wrong.status_code, "Expected version 1" in wrong.json()["error"]) == (400, True)
        assert (await client.post("/api/workflows/import", json={"version": 1})).status_code == 400


async def test_a_run_is_told_in_every_form() -> None:
    async with calling() as (here, client):
        workflow_id = await here.runner.ensure_workflow(PLAIN)
        given = {"session_id": "s1", "callback_secret": "cpcb1.x.y"}
        execution_id = await here.runner.execute(workflow_id, given, "key-1")
        path = f"/api/workflows/executions/{execution_id}"
        waited = (await client.get(f"{path}/wait?timeoutMs=60000", timeout=70)).json()
        assert (waited["status"], waited["completed"], waited["error"]) == ("success", True, None)
        status = await client.get(f"{path}/status")
        assert status.headers["x-poll-interval-hint"] == "0"
        assert [one["nodeId"] for one in status.json()["nodeStatuses"]] == ["trigger", "a"]
        assert status.json()["progress"] == {
            "totalSteps": 2,
            "completedSteps": 2,
            "runningSteps": 0,
            "currentNodeId": None,
            "currentNodeName": None,
            "percentage": 100,
        }
        logs = await client.get(f"{path}/logs")
        assert logs.json()["execution"]["workflowId"] == workflow_id
        assert [one["nodeId"] for one in logs.json()["logs"]] == ["a", "trigger"]
        assert "cpcb1" not in logs.text
        assert all(
            "input" not in one for one in (await client.get(f"{path}/logs?includeData=false")).json()["logs"]
        )
        some = (await client.get(f"{path}/logs?nodeIds=a&truncateData=5")).json()["logs"]
        assert some[0]["input"]["_truncated"] is True
        assert "input" not in some[1]
        (listed,) = (await client.get(f"/api/workflows/{workflow_id}/executions")).json()
        assert (listed["id"], listed["status"]) == (execution_id, "success")
        assert "cpcb1" not in json.dumps(listed)
        assert (await client.get("/api/workflows/executions/none/wait")).json() == {
            "error": "Execution not found"
        }


async def test_what_the_runner_knows_is_what_it_says_it_knows() -> None:
    assert set(FIELDS) <= set(KNOWN)
    async with calling() as (_, client):
        said = (await client.get("/api/mcp/schemas")).json()
        assert sorted(said["actions"]) == sorted(KNOWN)
        assert said["chains"] == (await client.get("/api/chains")).json()
        assert said["chains"][0]["chainId"] == 31337
        pool = said["actions"]["superfluid/create-pool"]
        assert list(pool["requiredFields"]) == ["network", "token", "admin"]
        assert {"transferabilityForUnitsOwner", "gasLimitMultiplier"} <= set(pool["optionalFields"])


async def test_what_is_no_request_is_refused_in_the_documented_form() -> None:
    async with calling() as (_, client):
        large = await client.post("/api/workflows/create", content=b"x" * 1_100_000)
        assert (large.status_code, set(large.json())) == (413, {"error", "detail", "request_id"})
        deep = await client.post("/api/workflows/create", content=b"[" * 100_000)
        assert deep.status_code == 400
        nowhere = await client.get("/api/nowhere")
        assert (nowhere.status_code, nowhere.json()["error"]) == (404, "not_found")
        assert nowhere.headers["x-request-id"] == nowhere.json()["request_id"]


async def test_a_database_that_is_away_is_an_unknown_outcome() -> None:
    async with calling() as (here, client):
        workflow_id = await here.runner.ensure_workflow(PLAIN)
        await here.runner.close()
        answer = await client.post(f"/api/workflows/{workflow_id}/execute", json={})
        assert (answer.status_code, answer.json()["error"], answer.headers["retry-after"]) == (
            503,
            "internal_error",
            "1",
        )
        once = Rest(here.url, SecretStr(here.organisation), Patience(attempts=1))
        with pytest.raises(BackendAway, match="503"):
            await HostedBackend(once).execute(workflow_id, {}, "key-1")
        await once.close()
