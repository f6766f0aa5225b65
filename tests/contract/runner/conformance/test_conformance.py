"""The table against a backend: the same rows for every one there is."""

import contextlib
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from services.credentials import engine_of
from services.keeper.backend import NodeLog, WorkflowBackend
from services.keeper.runner.runner import Runner
from services.keeper.workflow_format import lint, parse
from tests.contract.runner.conformance import condition_rows, flow_rows, http_rows, template_rows
from tests.contract.runner.conformance.row import Row, export
from tests.postgres import database

pytestmark = pytest.mark.asyncio(loop_scope="module")
ROWS = (*template_rows.ROWS, *condition_rows.ROWS, *flow_rows.ROWS, *http_rows.ROWS)
WITHIN_S = 60.0


@contextlib.asynccontextmanager
async def echo_server() -> AsyncIterator[str]:
    """Answers with what it was asked."""
    asked: dict[str, int] = {}

    async def echo(request: web.Request) -> web.Response:
        headers = {key.lower(): value for key, value in request.headers.items()}
        return web.json_response({"method": request.method, "headers": headers, "body": await request.text()})

    async def text(_: web.Request) -> web.Response:
        return web.Response(text="hello")

    async def status(request: web.Request) -> web.Response:
        return web.Response(status=int(request.match_info["code"]), headers={"Location": "/text"})

    async def third(request: web.Request) -> web.Response:
        asked[request.path] = asked.get(request.path, 0) + 1
        if asked[request.path] < 3:
            return web.Response(status=int(request.match_info["code"]))
        return web.json_response({"asked": asked[request.path]})

    app = web.Application()
    app.router.add_route("*", "/echo", echo)
    app.router.add_route("*", "/text", text)
    app.router.add_route("*", "/status/{code}", status)
    app.router.add_route("*", "/third/{code}", third)
    served = web.AppRunner(app)
    await served.setup()
    site = web.TCPSite(served, "127.0.0.1", 0)
    await site.start()
    host, port = served.addresses[0][:2]
    try:
        yield f"http://{host}:{port}"
    finally:
        await served.cleanup()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house() -> AsyncIterator[tuple[WorkflowBackend, str]]:
    async with echo_server() as echo, database() as url:
        engine = engine_of(url)
        runner = Runner(engine, http_allowed=(echo,))
        yield runner, echo
        await runner.close()
        await engine.dispose()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_row(row: Row, house: tuple[WorkflowBackend, str]) -> None:
    backend, echo = house
    await assert_row(row, backend, {"echo": echo} if row.echo else {})


async def assert_row(row: Row, backend: WorkflowBackend, world: Mapping[str, str]) -> None:
    """`world`: addresses that the row's input has besides its own fields."""
    workflow_id = await backend.ensure_workflow(export(row.name, row.nodes, row.edges))
    execution_id = await backend.execute(workflow_id, {**world, **row.input}, row.name)
    found = await backend.wait(execution_id, WITHIN_S)
    logs = (await backend.logs(execution_id))[::-1]
    assert (found.status, found.error) == (row.status, found.error if row.status == "error" else None)
    if row.error is not None:
        assert row.error in (found.error or "")
    if row.ran is not None:
        assert sorted(log.node_id for log in logs) == sorted(row.ran.split())
    for node_id, expected in row.outputs.items():
        assert_within(expected, last(logs, node_id).output)
    for node_id, expected in row.inputs.items():
        assert_within(expected, last(logs, node_id).input)


def last(logs: tuple[NodeLog, ...], node_id: str) -> NodeLog:
    return [log for log in logs if log.node_id == node_id][-1]


def assert_within(expected: Any, found: Any, at: str = "") -> None:
    """Objects may have more than is expected of them, nothing else may."""
    if isinstance(expected, dict):
        assert isinstance(found, dict), at
        for key, value in expected.items():
            assert key in found, f"{at}.{key}"
            assert_within(value, found[key], f"{at}.{key}")
    elif isinstance(expected, list):
        assert isinstance(found, list), at
        assert len(found) == len(expected), at
        for index, (one, other) in enumerate(zip(expected, found, strict=True)):
            assert_within(one, other, f"{at}[{index}]")
    else:
        assert json.dumps(found) == json.dumps(expected), at


def names() -> Iterator[str]:
    return (row.name for row in ROWS)


async def test_the_table_is_as_large_as_it_has_to_be_and_each_row_has_a_name_of_its_own() -> None:
    assert len(ROWS) >= 50
    assert len(set(names())) == len(ROWS)


async def test_every_row_is_a_valid_export() -> None:
    for row in ROWS:
        lint(parse(export(row.name, row.nodes, row.edges)))
