"""The commands about the event log and its read model: show a history, check, rebuild. Knows no rule."""

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli_output import Failure, Json, print_json, show, table_of

if TYPE_CHECKING:
    from services.settings import Settings

events_app = typer.Typer(help="The event log.", no_args_is_help=True)
projection_app = typer.Typer(help="The read model in PostgreSQL.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(events_app, name="events")
    app.add_typer(projection_app, name="projection")


@events_app.command("show")
def events_show(
    kind: Annotated[str, typer.Argument(help="node, pool, session or stream.")],
    identifier: Annotated[str, typer.Argument(metavar="ID", help="The aggregate's id.")],
    json: Json = False,
) -> None:
    """The history of one node, pool, session or stream, as it stands in the log."""
    from events.envelope import DECIDERS

    if kind not in DECIDERS:
        raise Failure("unknown_kind", f"{kind!r} is none of {', '.join(sorted(DECIDERS))}")
    found = asyncio.run(_history(kind, identifier))
    if not found:
        raise Failure("no_history", f"the log has no {kind} {identifier}", f"computepool {kind}s")
    if json:
        print_json(found)
        return
    rows = [[item["sequence"], item["time"], item["type"], _brief(item["event"])] for item in found]
    show(table_of(("sequence", "time", "type", "event"), rows))


async def _history(kind: str, identifier: str) -> list[dict[str, Any]]:
    from datetime import UTC, datetime

    import msgspec

    from services import bus
    from services.log import EventLog
    from services.logging import configure
    from services.stack.client import local_settings

    configure("error")
    client = await bus.connect(local_settings(), "auditor", first_connect_s=3)
    try:
        history = await (await EventLog.open(client, None)).history(kind, identifier)
    finally:
        await bus.close(client)
    found = []
    for recorded in history.recorded:
        item = msgspec.to_builtins(recorded)
        moment = datetime.fromtimestamp(recorded.time_unix_ms / 1000, UTC)
        found.append({**item, "time": moment.isoformat(timespec="milliseconds")})
    return found


def _brief(event: dict[str, Any]) -> str:
    shown = (f"{name}={value}" for name, value in event.items() if name not in ("type", "event"))
    return " ".join(text if len(text) <= 60 else text[:57] + "…" for text in shown)


@projection_app.command("check")
def projection_check(json: Json = False) -> None:
    """Compare the rows with a fresh replay of the log. Exit code 1 when they differ."""
    from services.logging import configure
    from services.projection_check import check
    from services.stack.client import local_settings

    configure("error")
    found = asyncio.run(check(_with_database(local_settings())))
    if json:
        print_json({**found._asdict(), "differences": [item._asdict() for item in found.differences]})
    else:
        rows = [item._asdict().values() for item in found.differences]
        if rows:
            show(table_of(("table", "key", "column", "expected", "found"), [tuple(row) for row in rows]))
        verdict = f"{len(rows)} differences" if rows else "equal to a fresh replay of the log"
        print(f"{found.rows} rows at sequence {found.sequence}: {verdict}")
    if found.differences:
        raise typer.Exit(1)


@projection_app.command("rebuild")
def projection_rebuild(json: Json = False) -> None:
    """Build the read model anew beside the old one, compare, swap. Exit code 1: not swapped."""
    from services.logging import configure
    from services.rebuild import Progress, rebuild
    from services.stack.client import local_settings

    def progress(step: Progress) -> None:
        print(f"{step.phase} {step.sequence}/{step.head}", file=sys.stderr, flush=True)

    configure("error")
    report = asyncio.run(rebuild(_with_database(local_settings()), progress))
    if json:
        print_json(report._asdict())
    else:
        print(" ".join(f"{name}={value}" for name, value in report._asdict().items()))
    if not report.swapped:
        raise typer.Exit(1)


def _with_database(settings: "Settings") -> "Settings":
    from services.stack.client import NoDatabase

    if settings.database_url is None:
        raise NoDatabase("start the stack with `computepool up`, or set DATABASE_URL")
    return settings
