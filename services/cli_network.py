"""The commands that ask the gateway: nodes, pools, sessions, keys. Knows REST paths, nothing behind."""

import asyncio
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from services.cli_output import Failure, Json, print_json, show, table_of

COLUMNS = {
    "nodes": ("node_id", "label", "status", "device", "memory_bytes", "matmul_gflops", "last_seen_at"),
    "pools": ("pool_id", "name", "status", "model", "epoch", "price_wei_per_s", "shards"),
    "sessions": ("session_id", "pool_id", "payer", "status", "opened_at", "requests", "completion_tokens"),
}
Token = Annotated[
    str,
    typer.Option(envvar="COMPUTEPOOL_TOKEN", help="Operator token; default: a passing one."),
]
After = Annotated[str, typer.Option(help="Continue after this id.")]
Limit = Annotated[int, typer.Option(min=1, max=100)]
Watch = Annotated[bool, typer.Option("--watch", help="Refresh until Ctrl-C.")]


class ListUnlessNamed(TyperGroup):
    """`pools` alone, and `pools ID`, mean `pools list`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


pools_app = typer.Typer(
    cls=ListUnlessNamed, help="Pools: the list (also without `list`), and who holds which layers."
)
keys_app = typer.Typer(help="API keys: made, shown once, revoked.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    for kind, about in (
        ("nodes", "Operators' machines: what each holds and whether it is reachable."),
        ("pools", "Pools, their model, price and shards."),
        ("sessions", "Sessions, newest first; with an id, one of them with its requests."),
    ):
        if kind == "pools":
            pools_app.command("list", help=about)(_listing(kind))
        else:
            app.command(kind, help=about)(_listing(kind))
    app.add_typer(pools_app, name="pools")
    app.add_typer(keys_app, name="keys")


def _listing(kind: str) -> Callable[..., None]:
    def command(
        identifier: Annotated[str, typer.Argument(metavar="[ID]", help="Show only this one, whole.")] = "",
        json: Json = False,
        watch: Watch = False,
        after: After = "",
        limit: Limit = 50,
        token: Token = "",
    ) -> None:
        path = f"/{kind}/{identifier}" if identifier else f"/{kind}"
        params = {} if identifier else {"limit": str(limit), **({"after": after} if after else {})}

        def look() -> dict[str, Any]:
            return asyncio.run(call("GET", path, token, params=params))

        if watch:
            from rich.live import Live

            with Live(_table(kind, look()), refresh_per_second=4) as live:
                while True:
                    time.sleep(1)
                    live.update(_table(kind, look()))
        found = look()
        if json or identifier:
            print_json(found)
        else:
            show(_table(kind, found))
            if found.get("has_more"):
                last = found["items"][-1]
                print(f"more: computepool {kind} --after {last.get(COLUMNS[kind][0], '')}")

    return command


def _table(kind: str, page: dict[str, Any]) -> Any:
    items = page["items"]
    columns = [name for name in COLUMNS[kind] if not items or any(name in item for item in items)]
    return table_of(columns, [[_cell(item.get(name)) for name in columns] for item in items])


def _cell(value: object) -> object:
    return f"{len(value)}" if isinstance(value, list) else value


@pools_app.command("map")
def pools_map(
    pool: Annotated[str, typer.Argument(metavar="[POOL]", help="A name or an id; none: all.")] = "",
    json: Json = False,
    token: Token = "",
) -> None:
    """Which node holds which layers, as plain text: a row a node, a column a layer or several."""
    from services.block_map import drawn, maps_of

    pools, nodes = asyncio.run(_everything("/pools", token)), asyncio.run(_everything("/nodes", token))
    by_id = {node["node_id"]: node for node in nodes}
    chosen = [
        one
        for one in pools
        if (pool in (one["name"], one["pool_id"]) if pool else one["status"] != "retired")
    ]
    if pool and not chosen:
        raise Failure("pool_unknown", f"no pool has the name or id {pool!r}", "computepool pools")
    shown = [maps_of(one, by_id) for one in chosen]
    if json:
        print_json({"pools": shown})
    else:
        print("\n\n".join(drawn(one) for one in shown) or "no pools")


@pools_app.command("open-coalition")
def pools_open_coalition(
    pool: Annotated[str, typer.Argument(help="A name or an id; see `computepool pools`.")],
    directory: Annotated[
        list[Path] | None,
        typer.Option(
            "--dir", help="A node's directory, with its payout key; repeatable. Default: local nodes."
        ),
    ] = None,
    terms: Annotated[
        Path | None, typer.Option(help="JSON file with the coalition's terms. The local chain needs none.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Stay, and open the next epoch whenever another plan serves.")
    ] = False,
    json: Json = False,
    token: Token = "",
) -> None:
    """Make a priced pool payable: contract, bonds, consents, epoch. Again after a change of its plan.

    With --follow until SIGTERM, Ctrl-C or the pool's retirement; what is missing is said once and waited for.
    With --json a line for each opening.
    """
    asyncio.run(_open_coalition(pool, directory, terms, token, follow=follow, json=json))


async def _open_coalition(
    pool: str, directories: list[Path] | None, terms: Path | None, token: str, *, follow: bool, json: bool
) -> None:
    from services.coalition_following import follow_plan
    from services.coalition_opening import open_coalition
    from services.stack.client import local_settings, operator_token
    from services.until_stopped import until_stopped

    settings = local_settings()

    def nodes() -> list[Path]:
        local = (settings.state_dir / "nodes").glob("*")
        return directories or sorted(path for path in local if path.is_dir())

    def opened(row: Mapping[str, Any]) -> None:
        if json:
            print_json(row, line=follow)
        else:
            text = f"plan {row['paid_epoch']} of {row['name']} is paid by {row['gda_pool']}"
            print(f"{text} ({row['coalition']})", flush=True)

    def say(text: str) -> None:
        if follow or not json:
            print(text, file=sys.stderr if json else sys.stdout, flush=True)

    async with AsyncExitStack() as stack:
        token = token or await stack.enter_async_context(operator_token(settings))
        rows = [one for one in await _everything("/pools", token) if one["status"] != "retired"]
        chosen = next((one for one in rows if pool in (one["name"], one["pool_id"])), None)
        if chosen is None:
            raise Failure("pool_unknown", f"no pool has the name or id {pool!r}", "computepool pools")
        pool_id = str(chosen["pool_id"])
        if follow:
            following = follow_plan(settings, token, pool_id, nodes, opened, terms_file=terms, say=say)
            await until_stopped(following)
        else:
            opened(await open_coalition(settings, token, pool_id, nodes(), terms_file=terms, say=say))


async def _everything(path: str, token: str) -> list[dict[str, Any]]:
    """All pages of a list."""
    found: list[dict[str, Any]] = []
    after: dict[str, str] = {}
    while True:
        page = await call("GET", path, token, params={"limit": "100", **after})
        found += page["items"]
        if not page["has_more"]:
            return found
        after = {"after": str(found[-1]["pool_id" if path == "/pools" else "node_id"])}


@keys_app.command("create")
def keys_create(
    label: Annotated[str, typer.Option(help="Whose key it is.")], json: Json = False, token: Token = ""
) -> None:
    """Make an API key. It is shown once and kept only as a hash."""
    made = asyncio.run(call("POST", "/keys", token, body={"label": label}))
    if json:
        print_json(made)
    else:
        print(f"{made['token']}\n(key {made['id']}; shown once)")


@keys_app.command("revoke")
def keys_revoke(key_id: str, token: Token = "") -> None:
    """Revoke an API key by its id."""
    asyncio.run(call("DELETE", f"/keys/{key_id}", token))
    print(f"revoked {key_id}")


async def call(
    method: str,
    path: str,
    token: str = "",
    *,
    params: dict[str, str] | None = None,
    body: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """One request to the gateway; {} for an empty answer. Raises Failure with the gateway's code."""
    import httpx

    from services.gateway_rest import client
    from services.stack.client import local_settings, operator_token

    settings = local_settings()
    async with AsyncExitStack() as stack:
        token = token or await stack.enter_async_context(operator_token(settings))
        rest = await stack.enter_async_context(client(settings.public_url, token))
        try:
            answer = await rest.request(method, path, params=params, json=body)
        except httpx.TransportError as away:
            text = f"no gateway answers at {settings.public_url}"
            raise Failure("gateway_away", text, "computepool ps; computepool up") from away
    try:
        content: Any = answer.json() if answer.content else {}
    except ValueError:
        content = {"detail": answer.text[:300]}
    if answer.is_error:
        code = str(content.get("code", f"http_{answer.status_code}"))
        raise Failure(code, str(content.get("detail", "")), str(content.get("remedy", "")))
    return dict(content)
