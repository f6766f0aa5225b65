"""The commands on an operator's machine: join the network, run the node. Knows only the gateway's URL."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from services.cli_output import Failure, Json, print_json

worker_app = typer.Typer(help="This machine as a node: join once, then run.", no_args_is_help=True)
Directory = Annotated[Path, typer.Option("--dir", help="Keys and configuration of the node.")]


def register(app: typer.Typer) -> None:
    app.add_typer(worker_app, name="worker")


@worker_app.command("join")
def worker_join(
    gateway: Annotated[str, typer.Option(help="The gateway's URL.")],
    nats: Annotated[str, typer.Option(help="The NATS server's URL.")],
    token: Annotated[str, typer.Option(envvar="COMPUTEPOOL_TOKEN", help="Operator token of the network.")],
    label: Annotated[str, typer.Option(help="A name for people.")] = "node",
    directory: Directory = Path("computepool-node"),
    listen: Annotated[str, typer.Option(help="Where mesh peers reach this node.")] = "tls://0.0.0.0:9001",
    peer: Annotated[
        list[str] | None, typer.Option(help="tls://host:port of a mesh node; repeatable.")
    ] = None,
    api_port: Annotated[int, typer.Option(help="Loopback port of the mesh node's API.")] = 9002,
    model_dir: Annotated[list[Path] | None, typer.Option(help="Where models lie; repeatable.")] = None,
    json: Json = False,
) -> None:
    """Make this node's keys, register them with one signed challenge, write mesh.json and worker.json."""
    from services.join import Endpoints, join, write_configs

    joined = asyncio.run(join(directory, label, gateway, token))
    endpoints = Endpoints(listen, api_port, tuple(peer or ()), nats)
    write_configs(directory, endpoints, [path.resolve() for path in model_dir or ()])
    if json:
        print_json({"node_id": joined.node_id, "position": joined.position, "dir": str(directory)})
    else:
        print(f"joined as {joined.node_id}\nnext: computepool worker run --dir {directory}")


@worker_app.command("accept")
def worker_accept(
    pool_id: Annotated[str, typer.Argument(metavar="POOL_ID", help="See `computepool pools`.")],
    gateway: Annotated[str, typer.Option(help="The gateway's URL.")],
    token: Annotated[str, typer.Option(envvar="COMPUTEPOOL_TOKEN", help="Operator token of the network.")],
    directory: Directory = Path("computepool-node"),
    json: Json = False,
) -> None:
    """Consent to serve a pool: signed with this node's receipt key, over the pool's id and weights."""
    if not (directory / "worker.json").exists():
        raise Failure("not_joined", f"{directory} has no worker.json", "computepool worker join --help")
    from services.join import accept

    position = asyncio.run(accept(directory, pool_id, gateway, token))
    if json:
        print_json({"pool_id": pool_id, "position": position})
    else:
        print(f"accepted {pool_id} (log position {position})")


@worker_app.command("drain")
def worker_drain(
    gateway: Annotated[str, typer.Option(help="The gateway's URL.")],
    token: Annotated[str, typer.Option(envvar="COMPUTEPOOL_TOKEN", help="Operator token of the network.")],
    directory: Directory = Path("computepool-node"),
    reason: Annotated[str, typer.Option(help="For whoever reads the log later.")] = "asked by the operator",
    wait: Annotated[float, typer.Option(help="Seconds to wait until no ring needs this node.")] = 60.0,
    json: Json = False,
) -> None:
    """Leave every ring: a successor takes this node's layers, and running answers move with their KV."""
    if not (directory / "worker.json").exists():
        raise Failure("not_joined", f"{directory} has no worker.json", "computepool worker join --help")
    from services.leave import drain

    left = asyncio.run(drain(directory, gateway, token, reason, wait))
    if json:
        print_json({"node_id": left.node_id, "still_in": left.still_in, "blocked": left.blocked})
    else:
        print(f"draining {left.node_id}")
        for pool_id in left.still_in:
            print(f"still serving {pool_id}: {left.blocked.get(pool_id, 'a successor is loading')}")
        if not left.still_in:
            print("no ring needs this node any more: its worker may stop")
    if left.still_in:
        raise typer.Exit(1)


@worker_app.command("run")
def worker_run(directory: Directory = Path("computepool-node")) -> None:
    """Run the mesh node and the worker of a joined directory until Ctrl-C or SIGTERM."""
    if not (directory / "worker.json").exists():
        raise Failure("not_joined", f"{directory} has no worker.json", "computepool worker join --help")
    from services.stack.node import run_node

    asyncio.run(run_node(directory))
