"""The hosted client and the embedded runner's paths, end to end: one body, over REST and over MCP."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import pytest_asyncio

from services.keeper.backend import BackendRefused
from services.keeper.hosted.backend import HostedBackend
from tests.contract.hosted.served import TRANSPORTS, Served, served
from tests.contract.runner.conformance.row import Row, export, keep, node
from tests.contract.runner.conformance.test_conformance import ROWS, assert_row, echo_server

pytestmark = pytest.mark.asyncio(loop_scope="module")
WITHIN_S = 60.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house() -> AsyncIterator[tuple[Served, str]]:
    async with echo_server() as echo, served(http_allowed=(echo,)) as here:
        yield here, echo


@asynccontextmanager
async def hosted(here: Served, transport: str, **more: object) -> AsyncIterator[HostedBackend]:
    backend = HostedBackend(here.transport(transport), 31337, **more)  # type: ignore[arg-type]
    try:
        yield backend
    finally:
        await backend.close()


def anything(_: object) -> None:
    """The table has inputs that ours refuses, to say what KeeperHub makes of them."""


@pytest.mark.long
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_row_over_rest(row: Row, house: tuple[Served, str]) -> None:
    await assert_row_over("rest", row, house)


@pytest.mark.long
@pytest.mark.parametrize("row", ROWS[::3], ids=lambda row: row.name)
async def test_row_over_mcp(row: Row, house: tuple[Served, str]) -> None:
    await assert_row_over("mcp", row, house)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("row", ROWS[1::40], ids=lambda row: row.name)
async def test_some_rows(row: Row, transport: str, house: tuple[Served, str]) -> None:
    await assert_row_over(transport, row, house)


async def assert_row_over(transport: str, row: Row, house: tuple[Served, str]) -> None:
    """Each transport makes a workflow of its own of a row, since it executes it under the row's key."""
    here, echo = house
    row = replace(row, name=f"{row.name} ({transport})")
    async with hosted(here, transport, check=anything) as backend:
        await assert_row(row, backend, {"echo": echo} if row.echo else {})


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_run_from_its_workflow_to_its_logs(transport: str, house: tuple[Served, str]) -> None:
    here, _ = house
    plain = export(f"whole {transport}", (keep("a", "{{@trigger:Trigger.session_id}}"),), "trigger>a")
    async with hosted(here, transport) as backend:
        await backend.health()
        workflow_id = await backend.ensure_workflow(plain)
        assert await backend.ensure_workflow(plain) == workflow_id
        execution_id = await backend.execute(workflow_id, {"session_id": "s1"}, "key-1")
        assert await backend.execute(workflow_id, {"session_id": "s1"}, "key-1") == execution_id
        with pytest.raises(BackendRefused) as conflict:
            await backend.execute(workflow_id, {"session_id": "s2"}, "key-1")
        assert (conflict.value.code, conflict.value.retryable) == ("idempotency_conflict", False)
        assert execution_id in conflict.value.detail
        found = await backend.wait(execution_id, WITHIN_S)
        assert found == await here.runner.status(execution_id)
        assert await backend.status(execution_id) == found
        assert await backend.logs(execution_id) == await here.runner.logs(execution_id)
        assert await backend.list_executions(workflow_id) == (found,)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_another_content_is_another_run_of_the_same_workflow(
    transport: str, house: tuple[Served, str]
) -> None:
    here, _ = house
    async with hosted(here, transport) as backend:
        ids = set()
        for value in ("one", "two"):
            ids.add(
                await backend.ensure_workflow(
                    export(f"changes {transport}", (keep("a", value),), "trigger>a")
                )
            )
            execution_id = await backend.execute(max(ids), {}, value)
            await backend.wait(execution_id, WITHIN_S)
            (said,) = [log.input["value"] for log in await backend.logs(execution_id) if log.node_id == "a"]
            assert said == value
        assert len(ids) == 1


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_what_is_not_there_or_not_right_is_refused(transport: str, house: tuple[Served, str]) -> None:
    here, _ = house
    async with hosted(here, transport) as backend:
        with pytest.raises(BackendRefused) as missing:
            await backend.execute("wf_none", {}, "key-1")
        assert (missing.value.code, missing.value.status) == ("not_found", 404)
        with pytest.raises(BackendRefused) as unknown:
            await backend.status("exec_none")
        assert (unknown.value.code, unknown.value.status) == ("not_found", 404)
        circle = export(f"circle {transport}", (keep("a", "1"), keep("b", "2")), "trigger>a a>b b>a")
        with pytest.raises(BackendRefused) as wrong:
            await backend.ensure_workflow(circle)
        assert (wrong.value.code, wrong.value.status) == ("invalid_input", 400)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_an_error_of_a_run_is_told_as_the_runner_tells_it(
    transport: str, house: tuple[Served, str]
) -> None:
    here, _ = house
    broken = export(f"broken {transport}", (node("a", "web3/read-contract", network="1"),), "trigger>a")
    async with hosted(here, transport) as backend:
        execution_id = await backend.execute(await backend.ensure_workflow(broken), {}, "key-1")
        found = await backend.wait(execution_id, WITHIN_S)
        assert found == await here.runner.status(execution_id)
        assert found.status == "error"
        assert await backend.status(execution_id) == found


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_chain_that_the_runner_is_not_on_is_said_at_once(
    transport: str, house: tuple[Served, str]
) -> None:
    elsewhere = HostedBackend(house[0].transport(transport), 1)
    with pytest.raises(BackendRefused, match="chain_not_served"):
        await elsewhere.health()
    await elsewhere.close()
