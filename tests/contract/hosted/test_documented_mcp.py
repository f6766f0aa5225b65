"""The client of a hosted KeeperHub against what KeeperHub documents, over MCP."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from services.keeper.backend import BackendAway, BackendRefused
from services.keeper.hosted.backend import HostedBackend
from services.keeper.hosted.mcp import Mcp
from tests.contract.hosted.documented import DROP, Documented, documented
from tests.contract.hosted.test_documented import KEY, QUICK

EXECUTE = "execute_workflow"


@asynccontextmanager
async def hosted() -> AsyncIterator[tuple[Documented, HostedBackend]]:
    async with documented() as server:
        server.say("initialize", "mcp_initialize")
        server.say("notifications/initialized", "mcp_initialized")
        backend = HostedBackend(Mcp(server.url, KEY, QUICK, poll_hint_s=0.01))
        try:
            yield server, backend
        finally:
            await backend.close()


async def execute(backend: HostedBackend) -> str:
    return await backend.execute("wf_123", {"session_id": "s1"}, "key-1")


async def test_a_session_is_opened_in_order_and_used_for_every_call() -> None:
    async with hosted() as (server, backend):
        server.say(EXECUTE, "mcp_execute")
        assert await execute(backend) == "exec_123"
        assert await execute(backend) == "exec_123"
        begun = ["initialize", "notifications/initialized", EXECUTE, EXECUTE]
        assert [one.rpc for one in server.asked] == begun
        sessions = [one.headers.get("mcp-session-id") for one in server.asked]
        assert sessions == [None, "session-1", "session-1", "session-1"]
        arguments = server.asked[2].body["params"]["arguments"]
        assert arguments == {
            "workflowId": "wf_123",
            "input": {"session_id": "s1"},
            "idempotency_key": "key-1",
        }
        assert "text/event-stream" in server.asked[0].headers["accept"]


@pytest.mark.parametrize("stream", ["mcp_execute_stream", "mcp_execute_stream_open"])
async def test_an_event_stream_is_an_answer_too_and_a_renewed_session_is_adopted(stream: str) -> None:
    async with hosted() as (server, backend):
        server.say(EXECUTE, stream, "mcp_execute")
        assert await execute(backend) == "exec_123"
        await execute(backend)
        assert server.asked[-1].headers["mcp-session-id"] == "session-renewed"


@pytest.mark.parametrize(
    "lost", ["mcp_session_expired", "mcp_not_initialized", "mcp_missing_session", "mcp_unauthorized"]
)
async def test_a_lost_session_is_opened_once_more(lost: str) -> None:
    async with hosted() as (server, backend):
        server.say(EXECUTE, lost, "mcp_execute")
        assert await execute(backend) == "exec_123"
        assert len(server.of("initialize")) == 2
        assert {one.body["params"]["arguments"]["idempotency_key"] for one in server.of(EXECUTE)} == {"key-1"}


async def test_a_key_that_is_refused_twice_is_refused() -> None:
    async with hosted() as (server, backend):
        server.say(EXECUTE, "mcp_unauthorized")
        with pytest.raises(BackendRefused) as refused:
            await execute(backend)
        assert (refused.value.status, refused.value.retryable) == (401, True)
        assert len(server.of("initialize")) == 2


async def test_a_key_that_opens_no_session_is_refused() -> None:
    async with hosted() as (server, backend):
        server.say("initialize", "mcp_initialize_anonymous")
        with pytest.raises(BackendRefused, match="unauthorized"):
            await execute(backend)


@pytest.mark.parametrize(
    "fault",
    [
        DROP,
        "mcp_rate_limited",
        "mcp_tool_in_progress",
        "mcp_tool_internal",
        "mcp_tool_cold_start",
        "error_html",
    ],
)
async def test_what_passes_is_asked_again_under_the_same_key(fault: str) -> None:
    async with hosted() as (server, backend):
        server.say(EXECUTE, fault, "mcp_execute")
        assert await execute(backend) == "exec_123"
        keys = [one.body["params"]["arguments"]["idempotency_key"] for one in server.of(EXECUTE)]
        assert keys == ["key-1", "key-1"]


@pytest.mark.parametrize("fault", [DROP, "mcp_tool_internal", "mcp_tool_cold_start"])
async def test_an_outcome_that_stays_unknown_is_no_failure(fault: str) -> None:
    async with hosted() as (server, backend):
        server.say(EXECUTE, fault)
        with pytest.raises(BackendAway):
            await execute(backend)


@pytest.mark.parametrize(
    ("said", "code", "status", "retryable"),
    [
        ("mcp_tool_conflict", "idempotency_conflict", 409, False),
        ("mcp_tool_scope", "insufficient_scope", 403, True),
    ],
)
async def test_a_tool_that_refuses_is_not_called_again(
    said: str, code: str, status: int, retryable: bool
) -> None:
    async with hosted() as (server, backend):
        server.say(EXECUTE, said)
        with pytest.raises(BackendRefused) as refused:
            await execute(backend)
        assert (refused.value.code, refused.value.status, refused.value.retryable) == (
            code,
            status,
            retryable,
        )
        assert len(server.of(EXECUTE)) == 1


async def test_status_and_logs_come_from_one_tool() -> None:
    async with hosted() as (server, backend):
        server.say("get_execution", "mcp_get_execution")
        found = await backend.wait("exec_123", 5)
        assert (found.status, found.output, len(found.transactions)) == ("success", {"done": True}, 2)
        assert [entry.node_id for entry in await backend.logs("exec_123")] == ["transfer-2", "transfer-1"]
        asked = [one.body["params"]["arguments"].get("includeData") for one in server.of("get_execution")]
        assert asked == [False, True]
