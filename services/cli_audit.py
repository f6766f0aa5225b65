"""The commands of an auditor: verify the log from its bytes, and where every wei went. Knows no rule."""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli_output import Json, Models, print_json, read_file, show, table_of

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


@audit_app.command("money")
def money(
    rpc: Annotated[str, typer.Option(help="JSON-RPC of the chain. Default: this stack's.")] = "",
    manifest: Annotated[
        Path | None, typer.Option(help="Which contracts stand where. Default: this stack's.")
    ] = None,
    json: Json = False,
) -> None:
    """Recompute every paid session from log and chain. Exit code 1: a difference, or nothing to audit."""
    from services.logging import configure
    from services.money_audit import audit
    from services.stack.client import local_settings

    configure("error")
    report, compared = asyncio.run(audit(local_settings(), rpc or None, manifest))
    if json:
        import msgspec

        print_json({**msgspec.to_builtins(report), "read_model": compared, "sound": report.sound})
    else:
        columns = ("session", "state", "voucher", "operators", "refund", "seconds", "changes", "findings")
        rows = [
            (
                line.session,
                line.state,
                *(_usdc(wei) for wei in (line.voucher_wei, line.operators_wei, line.refund_wei)),
                line.billed_seconds,
                line.changes,
                line.findings,
            )
            for line in report.lines
        ]
        show(table_of(columns, rows))
        if report.findings:
            keys = ("session", "code", "detail", "wei")
            show(table_of(keys, [tuple(getattr(item, key) for key in keys) for item in report.findings]))
        print(
            f"{report.sessions} sessions, {report.billed_seconds} seconds, {report.operators} operators, "
            f"{_usdc(report.usdc_in_wei)} USDC in, {_usdc(report.usdc_out_wei)} USDC out"
        )
        print(
            f"{report.slashes} slashes, {_usdc(report.slashed_wei)} USDC out of bonds, "
            f"{_usdc(report.compensated_wei)} of it to payers; {_usdc(report.bonds_wei)} USDC in bonds"
        )
        if report.empty:
            print(f"nothing to audit: {', '.join(report.empty)} is zero")
        print("compared with the read model" if compared else "no read model to compare with")
        print(f"wei_drift {report.wei_drift}")
    if not report.sound:
        raise typer.Exit(1)


@audit_app.command("answer")
def answer(
    file: Annotated[Path, typer.Argument(help="A transcript, as computepool chat --transcript writes it.")],
    models: Models = None,
    json: Json = False,
) -> None:
    """Compute a paid answer again and say which node signed an output that its layers do not give.

    Exit code 1: a node lied. Needs the model's weights; only deterministic pools promise equal bits.
    """
    from services.answer_audit import LIES

    found = asyncio.run(_answer(file, models, json))
    if any(one["found"] in LIES for one in found):
        raise typer.Exit(1)


async def _answer(file: Path, models: Sequence[Path] | None, json: bool) -> list[dict[str, Any]]:
    import msgspec

    from services.accusing import read_transcript
    from services.answer_audit import findings, rerun_of
    from services.recompute_display import shown_on
    from services.stack.client import local_settings
    from services.verifier.recomputing import recomputed

    transcript = read_transcript(read_file(file))
    directories = local_settings().model_dirs if models is None else models
    with shown_on(sys.stderr) as told:
        stages = await recomputed(rerun_of(transcript), directories, told)
    found: list[dict[str, Any]] = msgspec.to_builtins(findings(transcript, stages))
    if json:
        print_json({"request_id": transcript.request_id, "attempt": transcript.attempt, "nodes": found})
        return found
    columns = ("node_id", "first_layer", "end_layer", "receipts", "found", "segment")
    show(table_of(columns, [[one[name] for name in columns] for one in found]))
    print(_verdict(found))
    return found


def _verdict(found: Sequence[dict[str, Any]]) -> str:
    from services.answer_audit import LIES

    liars = [f"{one['node_id']} ({one['found']})" for one in found if one["found"] in LIES]
    if liars:
        said = f"not what the layers give: {', '.join(liars)}"
        return f"{said}. In a pool that is not deterministic other hardware may give other bits, too."
    unlike = [one["node_id"] for one in found if one["found"] != "agrees"]
    return f"nothing can be said of {', '.join(unlike)}" if unlike else "every receipt agrees"


def _usdc(wei: str) -> str:
    """Every digit: 18 decimals, trailing zeros off."""
    whole, part = divmod(int(wei), 10**18)
    return f"{whole}.{part:018d}".rstrip("0").rstrip(".")
