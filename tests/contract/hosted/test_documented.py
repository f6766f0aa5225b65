"""The client of a hosted KeeperHub against what KeeperHub documents, over REST."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from services.keeper.backend import BackendAway, BackendRefused
from services.keeper.hosted.backend import HostedBackend
from services.keeper.hosted.keys import UnsafeUrl, WrongKeyKind
from services.keeper.hosted.patience import Patience
from services.keeper.hosted.replies import Reply, refusal_of
from services.keeper.hosted.rest import Rest
from services.keeper.hosted.webhook_trigger import WebhookTrigger
from tests.contract.hosted.documented import DROP, FIXTURES, HANG, Documented, documented, fixture

KEY = SecretStr("kh_a-key-that-nobody-may-read")
QUICK = Patience(attempts=4, first_s=0.001, longest_s=0.5)
EXECUTE = "POST /api/workflows/wf_123/execute"
STATUS = "GET /api/workflows/executions/exec_123/status"
WAIT = "GET /api/workflows/executions/exec_123/wait"
PING = {
    "version": 1,
    "workflow": {"name": "cp-ping", "description": "Calls back."},
    "nodes": [
        {
            "id": "trigger",
            "type": "trigger",
            "position": {"x": 0, "y": 0},
            "data": {"type": "trigger", "label": "Trigger", "config": {"triggerType": "Webhook"}},
        }
    ],
    "edges": [],
}


@asynccontextmanager
async def hosted(
    timeout_s: float = 5.0, patience: Patience = QUICK
) -> AsyncIterator[tuple[Documented, HostedBackend]]:
    async with documented() as server:
        backend = HostedBackend(Rest(server.url, KEY, patience, timeout_s), chain_id=1)
        try:
            yield server, backend
        finally:
            await backend.close()


def test_every_fixture_says_where_it_comes_from() -> None:
    names = sorted(path.stem for path in FIXTURES.glob("*.json"))
    assert len(names) > 30
    assert not [name for name in names if len(fixture(name)["source"]) < 10]


async def test_a_run_is_executed_once_under_its_key_and_its_input_wrapped() -> None:
    async with hosted() as (server, backend):
        server.say(EXECUTE, "execute")
        assert await backend.execute("wf_123", {"session_id": "s1"}, "key-1") == "exec_123"
        (asked,) = server.of(EXECUTE)
        assert asked.body == {"input": {"session_id": "s1"}}
        assert asked.headers["idempotency-key"] == "key-1"
        assert asked.headers["authorization"] == f"Bearer {KEY.get_secret_value()}"


@pytest.mark.parametrize(
    "fault", [DROP, "error_internal", "error_html", "error_in_progress", "error_rate_limited"]
)
async def test_what_passes_is_asked_again_under_the_same_key(fault: str) -> None:
    async with hosted() as (server, backend):
        server.say(EXECUTE, fault, "execute_replayed")
        assert await backend.execute("wf_123", {"session_id": "s1"}, "key-1") == "exec_123"
        assert [one.headers["idempotency-key"] for one in server.of(EXECUTE)] == ["key-1", "key-1"]
        assert server.of(EXECUTE)[0].body == server.of(EXECUTE)[1].body


async def test_a_server_that_hangs_is_asked_again_under_the_same_key() -> None:
    async with hosted(timeout_s=0.3) as (server, backend):
        server.say(EXECUTE, HANG, "execute")
        assert await backend.execute("wf_123", {"session_id": "s1"}, "key-1") == "exec_123"
        assert {one.headers["idempotency-key"] for one in server.of(EXECUTE)} == {"key-1"}


@pytest.mark.parametrize("fault", [DROP, "error_internal", "error_html"])
async def test_an_outcome_that_stays_unknown_is_no_failure(fault: str) -> None:
    async with hosted() as (server, backend):
        server.say(EXECUTE, fault)
        with pytest.raises(BackendAway):
            await backend.execute("wf_123", {"session_id": "s1"}, "key-1")
        assert len(server.of(EXECUTE)) == QUICK.attempts


async def test_nobody_listening_is_an_unknown_outcome() -> None:
    backend = HostedBackend(Rest("http://127.0.0.1:1", KEY, QUICK))
    with pytest.raises(BackendAway):
        await backend.health()
    await backend.close()


@pytest.mark.parametrize(
    ("said", "code", "status", "retryable", "request_id"),
    [
        ("error_invalid_input", "invalid_input", 400, False, "b3c1e2f0-2a4d-4a1e-9c3f-0f2b7c1d5e6a"),
        ("error_unauthorized", "unauthorized", 401, True, "r-401"),
        ("error_billing", "billing_required", 402, True, None),
        ("error_scope", "insufficient_scope", 403, True, "r-403"),
        ("error_execution_not_found", "not_found", 404, True, "r-404"),
        ("error_conflict", "idempotency_conflict", 409, False, None),
        ("error_disabled", "workflow_disabled", 410, True, None),
        ("error_wrong_key_type", "wrong_key_type", 401, True, None),
    ],
)
async def test_a_refusal_in_either_shape_is_final_unless_a_person_can_mend_it(
    said: str, code: str, status: int, retryable: bool, request_id: str | None
) -> None:
    async with hosted() as (server, backend):
        server.say(EXECUTE, said)
        with pytest.raises(BackendRefused) as refused:
            await backend.execute("wf_123", {"session_id": "s1"}, "key-1")
        found = refused.value
        assert (found.code, found.status, found.retryable, found.request_id) == (
            code,
            status,
            retryable,
            request_id,
        )
        assert found.detail
        assert len(server.of(EXECUTE)) == 1


@pytest.mark.parametrize("said", ["error_unauthorized", "error_execution_not_found", "error_invalid_input"])
async def test_a_run_that_is_not_shown_has_not_failed(said: str) -> None:
    async with hosted() as (server, backend):
        server.say(STATUS, said)
        server.say(WAIT, said)
        for asking in (backend.status("exec_123"), backend.wait("exec_123", 5)):
            with pytest.raises(BackendRefused) as refused:
                await asking
            assert refused.value.retryable


async def test_a_conflict_names_the_run_that_has_the_key() -> None:
    async with hosted() as (server, backend):
        server.say(EXECUTE, "error_conflict")
        with pytest.raises(BackendRefused, match="exec_99"):
            await backend.execute("wf_123", {"session_id": "s1"}, "key-1")


@pytest.mark.parametrize(("said", "calls"), [("error_concurrency", 1), ("error_in_progress", 4)])
async def test_what_lasts_longer_than_our_patience_is_refused_and_may_be_asked_again(
    said: str, calls: int
) -> None:
    async with hosted() as (server, backend):
        server.say(EXECUTE, said)
        with pytest.raises(BackendRefused) as refused:
            await backend.execute("wf_123", {"session_id": "s1"}, "key-1")
        assert refused.value.retryable
        assert refused.value.retry_after_s == (30.0 if said == "error_concurrency" else None)
        assert len(server.of(EXECUTE)) == calls


async def test_a_status_is_read_with_every_transaction_and_the_output() -> None:
    async with hosted() as (server, backend):
        server.say(STATUS, "status_running", "status_success")
        server.say(WAIT, "wait_success")
        assert not (await backend.status("exec_123")).completed
        found = await backend.status("exec_123")
        assert (found.status, found.output, found.error) == (
            "success",
            {"success": True, "status": 200},
            None,
        )
        assert [(one.node_id, one.chain_id, one.iteration) for one in found.transactions] == [
            ("approve-token-1", 1, None),
            ("write-contract-1", 1, 0),
        ]


async def test_an_error_says_why() -> None:
    async with hosted() as (server, backend):
        server.say(STATUS, "status_error")
        server.say(WAIT, "wait_error")
        found = await backend.status("exec_123")
        assert (found.status, found.error) == ("error", "Contract call failed: NothingLeft()")
        waited = await backend.wait("exec_123", 5)
        assert (waited.status, waited.error, len(waited.transactions)) == ("error", "E-0001: run timeout", 1)


async def test_unconfirmed_is_neither_success_nor_failure() -> None:
    async with hosted() as (server, backend):
        server.say(STATUS, "status_unconfirmed")
        found = await backend.status("exec_123")
        assert not found.completed
        assert len(found.transactions) == 1


async def test_waiting_goes_on_over_as_many_long_polls_as_it_takes() -> None:
    async with hosted() as (server, backend):
        server.say(WAIT, "wait_running", "error_internal", "wait_running", "wait_success")
        assert (await backend.wait("exec_123", 30)).status == "success"
        assert len(server.of(WAIT)) == 4


async def test_waiting_ends_with_what_is_known_when_the_time_is_up() -> None:
    async with hosted() as (server, backend):
        server.say(WAIT, "wait_running")
        assert (await backend.wait("exec_123", 0.2)).status == "running"


async def test_logs_keep_their_order_and_their_iteration() -> None:
    async with hosted() as (server, backend):
        server.say("GET /api/workflows/executions/exec_123/logs", "logs")
        second, first = await backend.logs("exec_123")
        assert (first.node_id, first.status, first.iteration) == ("transfer-1", "success", None)
        assert (first.started_unix_ms, first.ended_unix_ms) == (1704067200000, 1704067201000)
        assert (second.status, second.iteration, second.ended_unix_ms) == ("error", 1, 1704067203500)
        assert second.error == "Failed to initialize organization wallet"


async def test_executions_are_listed() -> None:
    async with hosted() as (server, backend):
        server.say("GET /api/workflows/wf_456/executions", "executions")
        found = await backend.list_executions("wf_456")
        assert [(one.execution_id, one.status) for one in found] == [
            ("exec_124", "running"),
            ("exec_123", "success"),
        ]


async def test_a_workflow_that_is_there_with_this_content_is_left_alone() -> None:
    async with hosted() as (server, backend):
        server.say("GET /api/workflows", "workflows")
        server.say("GET /api/workflows/wf_123", "workflow")
        assert await backend.ensure_workflow(PING) == "wf_123"
        assert await backend.ensure_workflow(PING) == "wf_123"
        assert [one.method for one in server.asked] == ["GET", "GET"]


async def test_a_workflow_with_another_content_is_changed_and_one_that_is_missing_made() -> None:
    changed = {**PING, "workflow": {"name": "cp-ping", "description": "Calls back twice."}}
    async with hosted() as (server, backend):
        server.say("GET /api/workflows", "workflows", "workflows_none")
        server.say("GET /api/workflows/wf_123", "workflow")
        server.say("PATCH /api/workflows/wf_123", "workflow")
        server.say("POST /api/workflows/create", "created")
        assert await backend.ensure_workflow(changed) == "wf_123"
        (patched,) = server.of("PATCH /api/workflows/wf_123")
        assert patched.body["description"] == "Calls back twice."
        assert patched.body["enabled"] is True
        assert await backend.ensure_workflow(PING) == "wf_new"
        assert server.of("POST /api/workflows/create")[0].body["nodes"] == PING["nodes"]


async def test_a_workflow_that_an_editor_left_half_drawn_is_made_whole() -> None:
    async with hosted() as (server, backend):
        server.say("GET /api/workflows", "workflows")
        server.say("GET /api/workflows/wf_123", "workflow_half_drawn")
        server.say("PATCH /api/workflows/wf_123", "workflow")
        assert await backend.ensure_workflow(PING) == "wf_123"
        assert server.of("PATCH /api/workflows/wf_123")[0].body["nodes"] == PING["nodes"]


async def test_making_a_workflow_is_not_repeated_blindly() -> None:
    async with hosted() as (server, backend):
        server.say("GET /api/workflows", "workflows_none", "workflows")
        server.say("GET /api/workflows/wf_123", "workflow")
        server.say("POST /api/workflows/create", DROP)
        with pytest.raises(BackendAway):
            await backend.ensure_workflow(PING)
        assert await backend.ensure_workflow(PING) == "wf_123"
        assert len(server.of("POST /api/workflows/create")) == 1


async def test_health_asks_for_the_chain_too() -> None:
    async with hosted() as (server, backend):
        server.say("GET /api/workflows", "workflows")
        server.say("GET /api/chains", "chains")
        await backend.health()
        elsewhere = HostedBackend(Rest(server.url, KEY, QUICK), chain_id=11155111)
        with pytest.raises(BackendRefused, match="chain_not_served"):
            await elsewhere.health()
        await elsewhere.close()


async def test_a_webhook_key_starts_a_webhook_trigger_with_the_bare_input() -> None:
    async with documented() as server:
        server.say("POST /api/workflows/wf_123/webhook", "execute")
        trigger = WebhookTrigger(server.url, SecretStr("wfb_mine"), QUICK)
        assert await trigger.fire("wf_123", {"session_id": "s1"}, "key-1") == "exec_123"
        assert server.asked[0].body == {"session_id": "s1"}
        await trigger.close()


async def test_a_key_of_the_wrong_kind_never_leaves() -> None:
    with pytest.raises(WrongKeyKind, match="begins with kh_"):
        Rest("https://app.keeperhub.com", SecretStr("wfb_secret"))
    with pytest.raises(WrongKeyKind, match="begins with wfb_"):
        WebhookTrigger("https://app.keeperhub.com", SecretStr("kh_secret"))
    with pytest.raises(WrongKeyKind, match="not a key of KeeperHub") as refused:
        Rest("https://app.keeperhub.com", SecretStr("sk-secret"))
    assert "secret" not in str(refused.value)
    with pytest.raises(WrongKeyKind, match="line break"):
        Rest("https://app.keeperhub.com", SecretStr("kh_secret\n"))


@pytest.mark.parametrize(
    "url", ["http://app.keeperhub.com", "https://u:p@app.keeperhub.com", "app.keeperhub.com"]
)
def test_a_key_travels_by_https_alone(url: str) -> None:
    with pytest.raises(UnsafeUrl):
        Rest(url, KEY)


async def test_an_answer_that_quotes_secrets_is_masked() -> None:
    secret = "cpcb1.eyJydW4iOjF9.c2lnbmF0dXJl"
    found = refusal_of(Reply(400, {"error": f"bad {secret} for {KEY.get_secret_value()}"}))
    assert secret not in str(found)
    assert KEY.get_secret_value() not in str(found)
    with capture_logs() as logs:
        async with hosted() as (server, backend):
            server.say(EXECUTE, DROP)
            with pytest.raises(BackendAway) as away:
                await backend.execute("wf_123", {"callback_secret": secret}, "key-1")
    assert logs
    for text in (str(away.value), repr(away.value), repr(backend), str(logs)):
        assert secret not in text
        assert KEY.get_secret_value() not in text
