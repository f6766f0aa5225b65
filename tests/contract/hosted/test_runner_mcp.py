"""`/mcp` at the embedded runner: the order of a session, its errors, and both forms of an answer."""

import json
from typing import Any

import httpx

from tests.contract.hosted.served import Served
from tests.contract.hosted.test_runner_paths import PLAIN, calling

INITIALIZE = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-06-18"}}
INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}
LIST = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}


def call(tool: str, /, **arguments: Any) -> dict[str, Any]:
    return {
        "jsonrpc": "2.0",
        "id": 3,
        "method": "tools/call",
        "params": {"name": tool, "arguments": arguments},
    }


async def session_of(client: httpx.AsyncClient) -> dict[str, str]:
    headers = {"Mcp-Session-Id": (await client.post("/mcp", json=INITIALIZE)).headers["mcp-session-id"]}
    assert (await client.post("/mcp", json=INITIALIZED, headers=headers)).status_code == 202
    return headers


def code_of(answer: httpx.Response) -> int:
    code: int = answer.json()["error"]["code"]
    return code


async def test_a_session_begins_in_its_order_and_belongs_to_its_key() -> None:
    async with calling() as (here, client):
        without = await client.post("/mcp", json=LIST)
        assert (without.status_code, code_of(without)) == (400, -32003)
        begun = await client.post("/mcp", json=INITIALIZE)
        assert begun.json()["result"]["protocolVersion"] == "2025-06-18"
        headers = {"Mcp-Session-Id": begun.headers["mcp-session-id"]}
        early = await client.post("/mcp", json=LIST, headers=headers)
        assert (early.status_code, code_of(early)) == (400, -32003)
        await client.post("/mcp", json=INITIALIZED, headers=headers)
        assert len((await client.post("/mcp", json=LIST, headers=headers)).json()["result"]["tools"]) > 8
        _, other = here.keys.issue("organisation", "other")
        theirs = {**headers, "Authorization": f"Bearer {other}"}
        assert code_of(await client.post("/mcp", json=LIST, headers=theirs)) == -32001
        assert code_of(await client.delete("/mcp")) == -32004
        assert (await client.delete("/mcp", headers=headers)).status_code == 200
        over = await client.post("/mcp", json=LIST, headers=headers)
        assert (over.status_code, code_of(over)) == (404, -32001)


async def test_who_is_not_known_is_challenged() -> None:
    async with calling() as (here, client):
        for token in ("none", "kh_unknown"):
            answer = await client.post("/mcp", json=INITIALIZE, headers={"Authorization": f"Bearer {token}"})
            assert (answer.status_code, answer.json()["error"]) == (401, "invalid_token")
            assert "www-authenticate" in answer.headers
        wrong = await client.post(
            "/mcp", json=INITIALIZE, headers={"Authorization": f"Bearer {here.webhook}"}
        )
        assert (wrong.status_code, wrong.json()["code"]) == (401, "wrong_key_type")


async def test_what_is_no_call_is_a_json_rpc_error() -> None:
    async with calling() as (_, client):
        headers = await session_of(client)

        async def asked(body: Any) -> httpx.Response:
            return await client.post("/mcp", json=body, headers=headers)

        assert (await client.post("/mcp", content=b"{", headers=headers)).status_code == 400
        assert code_of(await asked([1])) == -32600
        assert code_of(await asked({"jsonrpc": "2.0", "id": 1, "method": "resources/list"})) == -32601
        assert code_of(await asked(call("no_such_tool"))) == -32602
        assert code_of(await asked(call("get_execution"))) == -32602
        assert code_of(await asked(call("get_execution", executionId=7))) == -32602
        assert (await asked({"jsonrpc": "2.0", "id": 9, "method": "ping"})).json()["result"] == {}


async def test_a_tool_that_fails_says_what_rest_would() -> None:
    async with calling() as (here, client):
        headers = await session_of(client)
        answer = await client.post("/mcp", json=call("execute_workflow", workflowId="none"), headers=headers)
        result = answer.json()["result"]
        assert result["isError"] is True
        assert (
            result["content"][0]["text"] == 'API call failed: 404 Not Found - {"error": "Workflow not found"}'
        )
        assert await scope_of(here, client) == "insufficient_scope"


async def scope_of(here: Served, client: httpx.AsyncClient) -> str:
    """Of a key that may only read, when it executes."""
    _, token = here.keys.issue("organisation", "reads", "mcp:read")
    workflow_id = await here.runner.ensure_workflow(PLAIN)
    async with httpx.AsyncClient(
        base_url=here.url, headers={"Authorization": f"Bearer {token}"}, trust_env=False
    ) as reader:
        headers = await session_of(reader)
        answer = await reader.post(
            "/mcp", json=call("execute_workflow", workflowId=workflow_id), headers=headers
        )
    said: str = json.loads(answer.json()["result"]["content"][0]["text"])["error"]
    return said


async def test_a_client_that_takes_streams_alone_is_streamed_to() -> None:
    async with calling() as (_, client):
        headers = {**await session_of(client), "Accept": "text/event-stream"}
        answer = await client.post("/mcp", json=call("list_workflows"), headers=headers)
        assert answer.headers["content-type"].startswith("text/event-stream")
        data = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
        assert json.loads(data[0])["result"]["content"][0]["text"] == "[]"


async def test_every_tool_of_workflows_does_its_work() -> None:
    async with calling() as (_, client):
        headers = await session_of(client)

        async def tool(called: str, /, **arguments: Any) -> Any:
            answer = await client.post("/mcp", json=call(called, **arguments), headers=headers)
            result = answer.json()["result"]
            assert "isError" not in result, result
            return json.loads(result["content"][0]["text"])

        made = await tool("create_workflow", name="made", nodes=PLAIN["nodes"], edges=PLAIN["edges"])
        assert (await tool("get_workflow", workflowId=made["id"]))["name"] == "made"
        changed = await tool("update_workflow", workflowId=made["id"], description="Told.")
        assert changed["description"] == "Told."
        assert (await tool("validate_workflow", workflowId=made["id"]))["warnings"] == []
        assert await tool("list_executions", workflowId=made["id"]) == []
        assert set((await tool("list_action_schemas", category="web3"))["actions"]) >= {"web3/write-contract"}
        assert "chains" not in await tool("list_action_schemas", includeChains=False)
        assert await tool("delete_workflow", workflowId=made["id"]) == {"success": True}
        assert await tool("list_workflows") == []
