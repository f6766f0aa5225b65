"""The commands about the chain: put the contracts on it, and compare what stands there. Knows no contract."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli_output import Failure, Json, print_json, show, table_of

chain_app = typer.Typer(help="The contracts on a chain.", no_args_is_help=True)
RpcUrl = Annotated[
    str, typer.Option("--rpc", help="JSON-RPC URL. Default: CHAIN_RPC_URL, else the local chain.")
]


def register(app: typer.Typer) -> None:
    app.add_typer(chain_app, name="chain")


@chain_app.command("deploy")
def deploy(
    rpc: RpcUrl = "",
    key_file: Annotated[
        Path | None,
        typer.Option(help="File with the deployer's private key in hex. The local chain needs none."),
    ] = None,
    usdc: Annotated[str, typer.Option(help="A token with EIP-3009 to use instead of MockUSDC.")] = "",
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an earlier run ended.")] = False,
    json: Json = False,
) -> None:
    """Put Superfluid and our contracts on a chain, the same addresses on every chain; write the manifest."""
    found = asyncio.run(_deploy(rpc, key_file, usdc or None, resume, quiet=json))
    if json:
        print_json(found)


@chain_app.command("verify")
def verify(
    rpc: RpcUrl = "",
    quick: Annotated[
        bool, typer.Option("--quick", help="Believe the compiled artifacts, do not compile them again.")
    ] = False,
    json: Json = False,
) -> None:
    """Compile the sources again, deploy them on an empty chain and compare with what stands, byte for byte.

    Exit code 1 when anything differs. The first compilation of Superfluid takes a minute.
    """
    found = asyncio.run(_verify(rpc, quick))
    if json:
        print_json(found)
    else:
        wrong = [entry for entry in found["contracts"] if entry["wrong"]]
        rows = [(entry["name"], entry["address"], "; ".join(entry["wrong"])) for entry in wrong]
        if rows:
            show(table_of(("contract", "address", "what is wrong"), rows))
        for step in found["setup"]:
            print(f"does not hold: {step}")
        for made in found["recompiled"]:
            said = f"differ: {', '.join(made['differing'])}" if made["differing"] else "identical"
            print(f"{made['origin']}: {len(made['compared'])} contracts by solc {made['compiler']}, {said}")
        same = len(found["contracts"]) - len(wrong)
        print(f"chain {found['chain_id']}: {same} of {len(found['contracts'])} contracts as they should be")
    if not found["well"]:
        raise typer.Exit(1)


async def _verify(url: str, quick: bool) -> dict[str, Any]:
    from dataclasses import asdict

    from services.chain import manifest as manifests
    from services.chain.rpc import connected
    from services.chain.verification import verify as compare
    from services.stack.client import local_settings

    settings = local_settings()
    async with connected(url or settings.chain_rpc_url or _no_chain()) as rpc:
        manifest = manifests.read(settings.manifest_of(await rpc.chain_id()))
        verdict = await compare(rpc, manifest, quick=quick)
    return {**asdict(verdict), "well": verdict.well}


async def _deploy(
    url: str, key_file: Path | None, usdc: str | None, resume: bool, *, quiet: bool
) -> dict[str, Any]:
    import msgspec

    from services.chain import manifest as manifests
    from services.chain.contracts import plan_of
    from services.chain.deployer import Deployer, Progress
    from services.chain.networks import network_of
    from services.chain.rpc import connected
    from services.stack.client import local_settings

    settings = local_settings()
    async with connected(url or settings.chain_rpc_url or _no_chain()) as rpc:
        network = network_of(await rpc.chain_id())
        key = _deployer_key(key_file, network.chain_id)
        if usdc is None and not network.play_money:
            raise Failure(
                "usdc_needed", f"{network.name} deals in real money; name its token", "--usdc ADDRESS"
            )
        plan = plan_of(key.address, usdc)
        lines = _Lines(len(plan.steps), quiet)

        def say(progress: Progress) -> None:
            lines.step(progress.number, progress.title, progress.how, progress.gas_used)

        with lines:
            made = await Deployer(rpc, network, key).run(plan, resume=resume, say=say)
        path = settings.manifest_of(network.chain_id)
        manifests.write(path, made)
        if not quiet:
            print(
                f"{network.name}: {lines.sent} steps done now, {len(plan.steps) - lines.sent} stood already"
            )
            print(f"gas used now: {lines.gas:,}\nmanifest: {path}")
    built = msgspec.to_builtins(made)
    return {**built, "manifest": str(path), "sent": lines.sent, "gas_used": lines.gas}


class _Lines:
    """A bar on a terminal, a line per step elsewhere; on stderr, so that stdout stays the answer."""

    def __init__(self, of: int, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self.of = of
        self.quiet = quiet
        self.sent = self.gas = 0
        columns = (MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"))
        self._bar = Progress(*columns, console=Console(stderr=True), disable=quiet or not sys.stderr.isatty())
        self._task = self._bar.add_task("looking at what stands", total=of)

    def __enter__(self) -> None:
        self._bar.start()

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def step(self, number: int, title: str, how: str, gas: int) -> None:
        self.sent += how == "sent"
        self.gas += gas
        self._bar.update(self._task, completed=number, description=title)
        if self._bar.disable and not self.quiet and how == "sent":
            print(f"[{number:>3}/{self.of}] {title}  ({gas:,} gas)", file=sys.stderr, flush=True)


def _deployer_key(path: Path | None, chain_id: int) -> Any:
    from services.chain import anvil, transactions

    if path is None:
        if chain_id == anvil.CHAIN_ID:
            return anvil.dev_account()
        raise Failure("key_needed", f"chain {chain_id} needs a deployer with coins", "--key-file PATH")
    try:
        return transactions.account(path.read_text().strip())
    except (OSError, ValueError) as wrong:
        text = f"{path} is not a file with a private key in hex ({type(wrong).__name__})"
        raise Failure("key_needed", text, "--key-file PATH") from None


def _no_chain() -> str:
    raise Failure(
        "no_chain", "nothing runs here and CHAIN_RPC_URL is not set", "computepool up, or --rpc URL"
    )
