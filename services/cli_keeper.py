"""The commands about keeper runs: what workflows there are, what ran, what each node did, who may call. Knows
no workflow.
"""

import asyncio
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import typer

from services.cli_output import Failure, Json, print_json, show, table_of

keeper_app = typer.Typer(help="Keeper runs: the transitions of payments, as workflows.", no_args_is_help=True)
Token = Annotated[
    str, typer.Option(envvar="COMPUTEPOOL_TOKEN", help="Operator token; default: a passing one.")
]
WORKFLOW_COLUMNS = ("name", "trigger", "nodes", "actions", "calls_back")
RUN_COLUMNS = (
    "id",
    "workflow",
    "step",
    "subject_id",
    "attempt",
    "status",
    "backend",
    "execution_id",
    "error_code",
)
LOG_COLUMNS = ("at", "node", "iteration", "type", "status", "ms", "said")
MOST_SAID = 100


class KeyKind(StrEnum):
    ORGANISATION = "organisation"
    WEBHOOK = "webhook"


class KeyScope(StrEnum):
    READ = "mcp:read"
    WRITE = "mcp:write"
    ADMIN = "mcp:admin"


def register(app: typer.Typer) -> None:
    app.add_typer(keeper_app, name="keeper")


@keeper_app.command("workflows")
def workflows(json: Json = False) -> None:
    """The workflow files: what starts each, what it does, which callbacks it sends."""
    from typing import get_args

    from events.workflow import WorkflowName
    from services.keeper.definitions import callback_events, definition_of
    from services.keeper.workflow_format import content_hash, parse

    found = []
    for name in get_args(WorkflowName):
        definition = definition_of(name)
        parsed = parse(definition)
        actions = sorted({node.action for node in parsed.nodes if node.action})
        found.append(
            {
                "name": name,
                "description": parsed.workflow.description,
                "trigger": parsed.trigger.data.config["triggerType"],
                "takes": parsed.trigger.data.description,
                "nodes": len(parsed.nodes),
                "actions": actions,
                "calls_back": list(callback_events(name)),
                "sha256": content_hash(definition),
            }
        )
    if json:
        print_json({"items": found})
        return
    show(table_of(WORKFLOW_COLUMNS, [[_cell(one[column]) for column in WORKFLOW_COLUMNS] for one in found]))


@keeper_app.command("runs")
def runs(
    run_id: Annotated[str, typer.Argument(metavar="[RUN]", help="Show only this one, whole.")] = "",
    subject: Annotated[str, typer.Option(help="Of one session, pool or slash only.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
    json: Json = False,
    token: Token = "",
) -> None:
    """Keeper runs, the newest first: for what, where it ran, how it ended."""
    from services.cli_network import call

    if run_id:
        print_json(asyncio.run(call("GET", f"/runs/{run_id}", token)))
        return
    params = {"limit": str(limit), **({"subject_id": subject} if subject else {})}
    found = asyncio.run(call("GET", "/runs", token, params=params))
    if json:
        print_json(found)
        return
    show(table_of(RUN_COLUMNS, [[one.get(column) for column in RUN_COLUMNS] for one in found["items"]]))


@keeper_app.command("logs")
def logs(
    run_id: Annotated[str, typer.Argument(metavar="RUN")], json: Json = False, token: Token = ""
) -> None:
    """What each node of a run did, in order, as the backend that ran it tells it; secrets are masked."""
    found = asyncio.run(_logs(run_id, token))
    if json:
        print_json(found)
        return
    rows = [
        (
            datetime.fromtimestamp(entry["started_unix_ms"] / 1000, UTC).strftime("%H:%M:%S.%f")[:-3],
            entry["node_name"],
            entry["iteration"],
            entry["node_type"],
            entry["status"],
            None if entry["ended_unix_ms"] is None else entry["ended_unix_ms"] - entry["started_unix_ms"],
            entry["error"] or _said(entry["output"]),
        )
        for entry in found["nodes"]
    ]
    show(table_of(LOG_COLUMNS, rows))
    print(f"{found['execution_id']} on the {found['backend']} backend: {found['status']}")


async def _logs(run_id: str, token: str) -> dict[str, Any]:
    from dataclasses import asdict

    from services.cli_network import call
    from services.credentials import engine_of
    from services.database import database_url
    from services.keeper.backend import WorkflowBackend
    from services.keeper.choosing import backend_of
    from services.keeper.runner.runner import Runner
    from services.stack.client import local_settings

    run = await call("GET", f"/runs/{run_id}", token)
    if not run.get("execution_id"):
        raise Failure("run_not_accepted", f"no backend has taken run {run_id} yet; it is {run['status']}")
    settings = local_settings()
    engine = engine_of(database_url(settings))
    runner = Runner(engine)
    backend: WorkflowBackend = runner
    try:
        backend = backend_of(settings, runner)
        if backend.name != run["backend"]:
            raise Failure(
                "other_backend",
                f"run {run_id} ran on the {run['backend']} backend, and the {backend.name} one is configured",
                "set or unset KEEPERHUB_API_KEY",
            )
        status = await backend.status(run["execution_id"])
        nodes = await backend.logs(run["execution_id"])
    finally:
        await runner.close()
        await backend.close()
        await engine.dispose()
    told = [asdict(entry) for entry in reversed(nodes)]
    return {
        "run_id": run_id,
        "backend": run["backend"],
        "execution_id": run["execution_id"],
        "status": status.status,
        "error": status.error,
        "nodes": told,
    }


@keeper_app.command("make-key")
def make_key(
    kind: Annotated[KeyKind, typer.Option(help="What it opens: REST and MCP, or webhook triggers.")] = (
        KeyKind.ORGANISATION
    ),
    label: Annotated[str, typer.Option(help="For whom; shown in the list.")] = "",
    scope: Annotated[KeyScope | None, typer.Option(help="Default: everything.")] = None,
    json: Json = False,
) -> None:
    """Make a key for the keeper's paths and print it, this once.

    An organisation's key that may write sends transactions with the keeper's wallet.
    """
    key, secret = _keys().issue(kind.value, label, scope.value if scope else None)
    if json:
        print_json({"id": key.id, "kind": key.kind, "scope": key.scope, "key": secret})
        return
    print(secret)


@keeper_app.command("keys")
def list_keys(json: Json = False) -> None:
    """Who may call the keeper's own KeeperHub paths: the keys in force, without the keys themselves."""
    columns = ("id", "kind", "scope", "label")
    found = [{column: getattr(key, column) for column in columns} for key in _keys().all()]
    if json:
        print_json({"items": found})
        return
    show(table_of(columns, [list(one.values()) for one in found]))


@keeper_app.command("revoke-key")
def revoke_key(key_id: Annotated[str, typer.Argument(metavar="ID")]) -> None:
    """End a key at once."""
    if not _keys().revoke(key_id):
        raise Failure("key_unknown", f"no key {key_id}", "computepool keeper keys")
    print(f"revoked {key_id}")


def _keys() -> Any:
    from services.keeper.runner_http.keys import AccessKeys
    from services.settings import Settings

    settings = Settings()
    settings.access_keys.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return AccessKeys(settings.access_keys)


def _cell(value: object) -> object:
    return ", ".join(value) if isinstance(value, list) else value


def _said(output: object) -> str:
    """A line of what a node gave."""
    import json

    text = "" if output is None else json.dumps(output, ensure_ascii=False)
    return text if len(text) <= MOST_SAID else text[: MOST_SAID - 1] + "…"
