"""`computepool chaos`: a drill that shows what a bad network changes, and what it does not."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from services.cli_output import Json, print_json, show, table_of

MODEL = Path(__file__).resolve().parents[1] / "tests" / "models" / "tales"


def chaos(
    loss: Annotated[float, typer.Option(min=0, max=0.9, help="Share of copies that are lost.")] = 0.2,
    duplicate: Annotated[float, typer.Option(min=0, max=1, help="Share of messages sent twice.")] = 0.2,
    reorder: Annotated[float, typer.Option(min=0, max=1, help="Share that later ones overtake.")] = 0.1,
    delay_ms: Annotated[float, typer.Option(min=0, max=1000, help="Each takes up to so much longer.")] = 15.0,
    corrupt: Annotated[float, typer.Option(min=0, max=0.9, help="Share of copies with flipped bits.")] = 0.05,
    shards: Annotated[int, typer.Option(min=2, max=4, help="Nodes that the model is cut over.")] = 2,
    generations: Annotated[int, typer.Option(min=1, max=200, help="Questions asked.")] = 5,
    tokens: Annotated[int, typer.Option(min=8, max=512, help="Tokens of each answer, at most.")] = 32,
    seconds: Annotated[float, typer.Option(min=5, max=3600, help="No question after half of this.")] = 240.0,
    seed: Annotated[int, typer.Option(help="Of the weather: the same seed, the same dice.")] = 0,
    model: Annotated[
        Path, typer.Option(exists=True, file_okay=False, help="Model directory.", show_default="story model")
    ] = MODEL,
    json: Json = False,
) -> None:
    """A fresh network on this machine answers the same questions in clear and in foul weather.

    On loopback only, beside a stack that runs; everything is stopped afterwards. Exit code 1: a text differs.
    """
    from services.chaos.drill import Plan, drill
    from services.chaos.weather import Weather
    from services.logging import configure

    configure("error")
    weather = Weather(loss, duplicate, reorder, delay_ms, corrupt)
    plan = Plan(weather, shards, generations, tokens, seconds, seed)
    verdict = asyncio.run(drill(plan, model.resolve(), lambda line: typer.echo(line, err=True)))
    found = verdict.as_dict(plan)
    if json:
        print_json(found)
    else:
        rows: list[tuple[object, object]] = [
            ("identical texts", f"{verdict.identical} of {verdict.generations}"),
            (
                "frames sent, foul / clear",
                f"{verdict.frames_foul} / {verdict.frames_clear} = {found['frames_ratio']}",
            ),
            *((f"messages {name}", number) for name, number in sorted(verdict.happened.items())),
            *((f"frames dropped as {code}", number) for code, number in sorted(verdict.dropped.items())),
            *(
                (f"after {name}", "the same text" if same else "ANOTHER TEXT")
                for name, same in verdict.pauses.items()
            ),
            ("verdict", "held" if verdict.held else "BROKEN"),
        ]
        show(table_of(("what", "found"), rows))
    if not verdict.held:
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    app.command()(chaos)
