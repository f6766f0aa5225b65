"""`computepool keeper` as it is typed: the files, the runs with their nodes, and the keys of the paths."""

import asyncio
import json
import os
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from events.envelope import Cause
from events.ids import run_command_id, run_id_of, run_key
from events.workflow import Accept, Accepted, Request, Requested
from services import bus
from services.cli import app
from services.credentials import engine_of
from services.handle import handle
from services.keeper.runner.runner import Runner
from services.keeper.runner_http.keys import AccessKeys
from services.log import EventLog, Writer
from services.stack.node import ROOT
from tests.contract.gateway_house import House, house, until
from tests.contract.runner.conformance.row import export, keep


def test_the_files_are_listed_with_what_they_call_back() -> None:
    found = json.loads(CliRunner().invoke(app, ["keeper", "workflows", "--json"]).stdout)["items"]
    assert [one["name"] for one in found][:2] == ["propose", "activate-and-pool"]
    assert len(found) == 5
    assert all(
        one["trigger"] == "Webhook" and one["calls_back"] and len(one["sha256"]) == 64 for one in found
    )
    assert "stream_stopped" in CliRunner().invoke(app, ["keeper", "workflows"]).stdout


def test_a_key_is_printed_once_listed_without_itself_and_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPUTEPOOL_STATE_DIR", str(tmp_path))

    def typed(*arguments: str) -> str:
        answer = CliRunner().invoke(app, ["keeper", *arguments])
        assert answer.exit_code == 0, answer.output
        return answer.stdout

    token = typed("make-key", "--label", "ci", "--scope", "mcp:read").strip()
    hook = json.loads(typed("make-key", "--kind", "webhook", "--json"))
    assert (token[:3], hook["key"][:4], hook["kind"]) == ("kh_", "wfb_", "webhook")
    keys = AccessKeys(tmp_path / "keys" / "keeper-access.json")
    found = keys.find(token)
    assert found is not None
    assert (found.kind, found.scope, found.label) == ("organisation", "mcp:read", "ci")
    listed = typed("keys", "--json")
    assert [one["kind"] for one in json.loads(listed)["items"]] == ["organisation", "webhook"]
    assert token not in listed
    typed("revoke-key", found.id)
    assert keys.find(token) is None
    assert CliRunner().invoke(app, ["keeper", "revoke-key", found.id]).exit_code == 1


@pytest.mark.long
async def test_a_run_is_listed_and_its_nodes_told(tmp_path: Path) -> None:
    async with house(tmp_path) as built:
        run_id, execution_id = await ran(built)

        async def typed(*arguments: str) -> tuple[int, str, str]:
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "services.cli", "keeper", *arguments),
                cwd=ROOT,
                env={
                    **os.environ,
                    "COMPUTEPOOL_GATEWAY_URL": built.url,
                    "COMPUTEPOOL_TOKEN": built.operator_token,
                    "COMPUTEPOOL_STATE_DIR": str(tmp_path / "nothing-runs-here"),
                    "DATABASE_URL": built.database_url,
                },
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            out, err = await asyncio.wait_for(child.communicate(), 60)
            return child.returncode or 0, out.decode(), err.decode()

        async def listed() -> bool:
            items = json.loads((await typed("runs", "--subject", "s1", "--json"))[1])["items"]
            return [(one["id"], one.get("execution_id")) for one in items] == [(run_id, execution_id)]

        await until(listed)
        assert json.loads((await typed("runs", run_id))[1])["workflow"] == "stream-stop"
        found = json.loads((await typed("logs", run_id, "--json"))[1])
        assert (found["status"], [one["node_id"] for one in found["nodes"]]) == ("success", ["trigger", "a"])
        status, out, _ = await typed("logs", run_id)
        assert (status, "State Set" in out, execution_id in out) == (0, True, True)
        status, _, err = await typed("logs", "0" * 26)
        assert (status, "run_unknown" in err) == (1, True)


async def ran(built: House) -> tuple[str, str]:
    """A run in the log, and its execution in the runner's journal."""
    run_id = run_id_of("stream-stop", "s1", "stop", 1)
    asked = Requested("stream-stop", "stream", "s1", "stop", 1, {"session_id": "s1"})
    engine = engine_of(built.database_url)
    runner = Runner(engine)
    workflow_id = await runner.ensure_workflow(
        export("stop", (keep("a", "{{@trigger:Trigger.session_id}}"),), "trigger>a")
    )
    execution_id = await runner.execute(workflow_id, asked.input, run_key(run_id))
    await runner.wait(execution_id, 60)
    await runner.close()
    await engine.dispose()
    settings = built.nats.settings
    client = await bus.connect(settings, "keeper")
    log = await EventLog.open(client, Writer.load(settings.seeds_dir / "keeper.nk"))
    for command, name in (
        (Request(asked), run_command_id(run_id)),
        (Accept(Accepted("embedded", execution_id)), f"{run_id}.accepted"),
    ):
        await handle(log, "workflow", run_id, command, Cause(name, run_id, name, time.time_ns() // 1_000_000))
    await bus.close(client)
    return run_id, execution_id
