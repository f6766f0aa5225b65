"""The commands of an auditor: verify the log from its bytes. Knows no rule."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from services.cli_output import Json, print_json, show, table_of

audit_app = typer.Typer(help="What an auditor does, who trusts nobody.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(audit_app, name="audit")


@audit_app.command("verify")
def verify(
    writers: Annotated[
        Path | None,
        typer.Option(help="JSON file: public key of a writer -> kinds it may write. Default: this stack's."),
    ] = None,
    json: Json = False,
) -> None:
    """Read the whole log: order, versions, ids, signatures, writers. Exit code 1 when anything is wrong."""
    from services.log_audit import audit_log
    from services.logging import configure
    from services.stack.client import local_settings

    configure("error")
    report = asyncio.run(audit_log(local_settings(), writers))
    findings = [(item.sequence, item.code, item.detail) for item in report.findings]
    if json:
        numbers = {
            name: getattr(report, name) for name in ("messages", "events", "aggregates", "root", "sound")
        }
        keys = ("sequence", "code", "detail")
        print_json({**numbers, "findings": [dict(zip(keys, item, strict=True)) for item in findings]})
    else:
        if findings:
            show(table_of(("sequence", "code", "detail"), findings))
        verdict = "sound" if report.sound else f"{len(findings)} findings"
        size = f"{report.events} events in {report.messages} commits of {report.aggregates} aggregates"
        print(f"{size}: {verdict}")
        print(f"Merkle root {report.root}")
    if not report.sound:
        raise typer.Exit(1)
