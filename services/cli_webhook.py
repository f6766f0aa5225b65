"""`computepool webhook`: was a callback sent, did it arrive, send it again. Knows no run's content."""

import asyncio
import json as json_codec
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli_output import Failure, Json, print_json, show, table_of

if TYPE_CHECKING:
    from services.keeper.callbacks import Callbacks
    from services.keeper.deliveries import Deliveries, Delivery
    from services.keeper.inbox import Inbox
    from services.keeper.sending import HandSender, Sent

webhook_app = typer.Typer(
    help="Callbacks of keeper runs: what was told, and did it arrive.", no_args_is_help=True
)
LISTEN_EVERY_S = 0.5


@dataclass
class Desk:
    """What every command here needs; closed at its end."""

    callbacks: "Callbacks"
    deliveries: "Deliveries"
    inbox: "Inbox"
    sender: "HandSender"


def register(app: typer.Typer) -> None:
    app.add_typer(webhook_app, name="webhook")


@webhook_app.command("list")
def list_(
    received: Annotated[
        bool, typer.Option("--received", help="What the gateway took, from whoever sent it.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many, the newest first.")] = 50,
    json: Json = False,
) -> None:
    """Deliveries of the embedded runner with their attempts, and what the keeper made of each."""

    async def look() -> list[dict[str, Any]]:
        async with _desk() as desk:
            if received:
                return [asdict(one) for one in await desk.inbox.newest(limit)]
            return [_shown(one) for one in await desk.deliveries.newest(limit)]

    found = asyncio.run(look())
    if json:
        print_json({"received" if received else "deliveries": found})
        return
    columns: tuple[str, ...]
    if received:
        columns = ("received_at", "proof", "event", "run_key", "transaction_hash", "outcome")
        rows = [[_time(one["received_unix_ms"]), *(one[name] for name in columns[1:])] for one in found]
    else:
        columns = ("created_at", "delivery", "event", "run_key", "attempts", "last", "outcome")
        rows = [
            [
                _time(one["created_unix_ms"]),
                *(one[name] for name in columns[1:4]),
                len(one["attempts"]),
                one["attempts"][-1]["status"] or one["attempts"][-1]["error"],
                one["outcome"],
            ]
            for one in found
        ]
    show(table_of(columns, rows))


@webhook_app.command("resend")
def resend(
    delivery: Annotated[str, typer.Argument(help="A delivery's id: computepool webhook list.")],
    json: Json = False,
) -> None:
    """Send a delivery again: the same bytes and id, a fresh time and signature. Exit code 1: not taken."""

    async def send() -> "Sent":
        async with _desk() as desk:
            found = await desk.deliveries.of(delivery)
            if found is None:
                raise Failure("delivery_unknown", f"no delivery {delivery}", "computepool webhook list")
            return await desk.sender.again(found)

    _tell(asyncio.run(send()), delivery, json)


@webhook_app.command("listen")
def listen(
    forward_to: Annotated[str, typer.Option("--forward-to", help="http://… on your machine.")],
    json: Json = False,
) -> None:
    """Forward every new delivery to another address, signed for it, until Ctrl-C; one line for each."""

    async def forward() -> None:
        async with _desk() as desk:
            newest = await desk.deliveries.newest(1)
            seen = newest[0].number if newest else 0
            _say({"listening": True, "forward_to": forward_to}, json, f"forwarding to {forward_to}")
            while True:
                for one in await desk.deliveries.after(seen):
                    seen = one.number
                    sent = await desk.sender.forwarded(forward_to, one)
                    line = f"{one.delivery} {one.said('event')} -> {sent.status or sent.error} {sent.ms} ms"
                    _say({"delivery": one.delivery, **asdict(sent)}, json, line)
                await asyncio.sleep(LISTEN_EVERY_S)

    asyncio.run(forward())


@webhook_app.command("trigger")
def trigger(
    event: Annotated[str, typer.Argument(help="What a workflow tells, such as stream_started.")],
    run: Annotated[str, typer.Option(help="A run's id. Default: the newest that told this event.")] = "",
    to: Annotated[str, typer.Option(help="Another address than the gateway's webhook.")] = "",
    json: Json = False,
) -> None:
    """Send a signed test callback and print the answer. It names no transaction, so it changes nothing.

    Exit code 1: it was not taken.
    """

    async def send() -> tuple[str, "Sent"]:
        async with _desk() as desk:
            run_key = run or await desk.inbox.newest_run(event)
            if run_key is None:
                raise Failure("run_needed", f"no run has told {event} yet", "--run RUN_ID")
            body = json_codec.dumps({"event": event, "run_key": run_key, "tx_hash": ""}).encode()
            return await desk.sender.new(to or desk.callbacks.url, body)

    delivery, sent = asyncio.run(send())
    _tell(sent, delivery, json)


@asynccontextmanager
async def _desk() -> AsyncIterator[Desk]:
    import httpx

    from services.credentials import engine_of
    from services.keeper.callbacks import Callbacks
    from services.keeper.deliveries import Deliveries
    from services.keeper.hook_secret import FILE
    from services.keeper.inbox import Inbox
    from services.keeper.sending import HandSender
    from services.stack.client import NoDatabase, local_settings

    settings = local_settings()
    if settings.database_url is None:
        raise NoDatabase("start the stack with `computepool up`, or set DATABASE_URL")
    if not (settings.state_dir / "keys" / FILE).exists():
        raise Failure("hook_key_missing", f"no {FILE} in {settings.state_dir / 'keys'}", "computepool up")
    callbacks = Callbacks.of(settings)
    engine = engine_of(settings.database_url.get_secret_value())
    deliveries = Deliveries(engine)
    try:
        async with httpx.AsyncClient(trust_env=False) as http:
            yield Desk(callbacks, deliveries, Inbox(engine), HandSender(http, callbacks.secret, deliveries))
    finally:
        await engine.dispose()


def _tell(sent: "Sent", delivery: str, json: bool) -> None:
    """The answer; exit code 1 when it was not taken."""
    answer = (
        f"{sent.status} in {sent.ms} ms: {sent.answer}" if sent.error is None else f"no answer: {sent.error}"
    )
    _say({"delivery": delivery, "taken": sent.taken, **asdict(sent)}, json, f"{delivery} -> {answer}")
    if not sent.taken:
        raise typer.Exit(1)


def _say(value: dict[str, Any], json: bool, line: str) -> None:
    print(json_codec.dumps(value) if json else line, flush=True)


def _shown(one: "Delivery") -> dict[str, Any]:
    said = {"event": one.said("event"), "run_key": one.said("run_key")}
    return {**asdict(one), **said, "body": one.body.decode("utf-8", "replace")}


def _time(unix_ms: int) -> str:
    return datetime.fromtimestamp(unix_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
