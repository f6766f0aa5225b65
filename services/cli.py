"""`computepool`: what an operator types. Each command parses, calls one function of the shell, prints.

Knows no rule of the business. Imports what a command needs inside of it, so that `--help` is immediate.
"""

import asyncio
import json as json_text
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from services import (
    cli_audit,
    cli_chain,
    cli_chaos,
    cli_facilitator,
    cli_keeper,
    cli_log,
    cli_network,
    cli_operator,
    cli_pay,
    cli_slash,
    cli_webhook,
    cli_worker,
)
from services.cli_output import Json, report, show

app = typer.Typer(
    name="computepool",
    help="One inference endpoint made of many small GPUs, with every transition auditable.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
bench_app = typer.Typer(help="Measurements; each prints one JSON object last.", no_args_is_help=True)

ROOT = Path(__file__).resolve().parents[1]


@app.command()
def up(
    nodes: Annotated[int, typer.Option(min=0, max=16, help="Local nodes to start.")] = 2,
    model: Annotated[str, typer.Option(help="Model directory, or its name below the model dirs.")] = "tales",
    pool: Annotated[str, typer.Option(help="The pool's name, which clients send as `model`.")] = "",
    price: Annotated[
        str,
        typer.Option(
            help="Wei of USDC (10^-18) for a request's second, a multiple of 10^12; 0: a free pool."
        ),
    ] = "0",
) -> None:
    """Start the network on this machine and leave it running (--nodes 0: without nodes and pool)."""
    from services.cli_stack import bring_up

    asyncio.run(bring_up(nodes, model, pool, price))


@app.command()
def down(json: Json = False) -> None:
    """Stop what runs here, also what a killed supervisor left behind."""
    from services.cli_stack import take_down

    ended = asyncio.run(take_down(quiet=json))
    if json:
        print(json_text.dumps({"survivors_ended": ended}))


@app.command()
def ps(
    json: Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until Ctrl-C.")] = False,
) -> None:
    """What runs here: processes, their state, addresses, memory. Exit code 1 when something has ended."""
    from services.cli_stack import process_list, process_table

    if watch:
        from rich.live import Live

        with Live(process_table(process_list()), refresh_per_second=4) as live:
            while True:
                time.sleep(1)
                live.update(process_table(process_list()))
    found = process_list()
    if json:
        print(json_text.dumps(found, indent=1))
    else:
        show(process_table(found))
    if any(entry["state"] != "running" for entry in found["processes"]):
        raise typer.Exit(1)


@app.command()
def logs(
    name: Annotated[str, typer.Argument(help="A process as `ps` names it; none: all of them.")] = "",
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="Last lines of each.")] = 40,
) -> None:
    """Print the logs of what runs here."""
    from services.cli_stack import follow_logs

    follow_logs(name, follow, lines)


@app.command()
def doctor(json: Json = False) -> None:
    """Say what is missing or wrong on this machine and the line that mends it. Exit code 1: something is."""
    from services.stack.doctor import examine

    findings = asyncio.run(examine())
    if json:
        print(json_text.dumps([finding.as_dict() for finding in findings], indent=1))
    else:
        for finding in findings:
            print(finding.as_line())
    if not all(finding.well for finding in findings):
        raise typer.Exit(1)


@app.command()
def demo() -> None:
    """A model cut over two processes answers three prompts; shows what happened; stops everything."""
    from services import demo as story

    raise typer.Exit(asyncio.run(story.main()))


@bench_app.command("shards")
def bench_shards(
    json: Json = False,
    quick: Annotated[bool, typer.Option("--quick", help="A tiny model: shows only that it runs.")] = False,
) -> None:
    """Two shards against single-process generate (stock mesh nodes too), the time of a hop, memory."""
    sys.path.insert(0, str(ROOT))
    from tests.bench import shards

    shards.main(json=json, quick=quick)


@bench_app.command("kv")
def bench_kv(
    json: Json = False,
    quick: Annotated[bool, typer.Option("--quick", help="Few rounds: shows only that it runs.")] = False,
) -> None:
    """A moved KV against computing it anew, and the pause that a drain makes in an answer."""
    sys.path.insert(0, str(ROOT))
    from tests.bench import kv

    kv.main(json=json, quick=quick)


@bench_app.command("pay")
def bench_pay(
    json: Json = False,
    quick: Annotated[bool, typer.Option("--quick", help="Few rounds: shows only that it runs.")] = False,
) -> None:
    """A paid first token against a free one, the time of a verification, gas, seconds billed too much."""
    sys.path.insert(0, str(ROOT))
    from tests.bench import pay

    pay.main(json=json, quick=quick)


@bench_app.command("keeper")
def bench_keeper(
    json: Json = False,
    quick: Annotated[bool, typer.Option("--quick", help="Few rounds: shows only that it runs.")] = False,
) -> None:
    """The workflow runner's own time for a start of payment, and how many small runs it takes in a second."""
    sys.path.insert(0, str(ROOT))
    from tests.bench import keeper

    keeper.main(json=json, quick=quick)


cli_network.register(app)
cli_log.register(app)
cli_audit.register(app)
cli_chain.register(app)
cli_chaos.register(app)
cli_facilitator.register(app)
cli_keeper.register(app)
cli_worker.register(app)
cli_operator.register(app)
cli_pay.register(app)
cli_slash.register(app)
cli_webhook.register(app)
app.add_typer(bench_app, name="bench")


def main() -> None:
    """The entry point: exit codes 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
    except Exception as failure:
        report(failure)
        sys.exit(1)


if __name__ == "__main__":
    main()
