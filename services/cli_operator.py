"""The commands of whoever is paid: what a payout wallet has earned, and taking it. Knows no contract."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli_output import Failure, Json, print_json, show, table_of

operator_app = typer.Typer(help="An operator's money: what was earned, and taking it.", no_args_is_help=True)
Directories = Annotated[
    list[Path] | None,
    typer.Option("--dir", help="A node's directory, with its payout key; repeatable. Default: local nodes."),
]
Gateway = Annotated[str, typer.Option(help="The gateway's URL. Default: the local one.")]
Token = Annotated[
    str, typer.Option(envvar="COMPUTEPOOL_TOKEN", help="A token of the network; default: a passing one.")
]


def register(app: typer.Typer) -> None:
    app.add_typer(operator_app, name="operator")


@operator_app.command("earnings")
def earnings(
    directory: Directories = None, gateway: Gateway = "", token: Token = "", json: Json = False
) -> None:
    """What each payout wallet may claim and has claimed, by pool and epoch, from the chain: in USDC."""

    async def look(rpc: Any, manifest: Any, payout: Any, coalitions: Any) -> dict[str, Any]:
        from services.operator_income import purse_of

        return _shown(await purse_of(rpc, manifest, payout.address, coalitions))

    found = asyncio.run(_each(directory, gateway, token, look))
    if json:
        print_json({"wallets": found})
        return
    columns = ("wallet", "pool_id", "chain_epoch", "units", "claimable_usdc", "claimed_usdc")
    rows = [
        [purse["wallet"], *(income[name] for name in columns[1:])]
        for purse in found
        for income in purse["incomes"]
    ]
    show(table_of(columns, rows))
    for purse in found:
        print(f"{purse['wallet']} holds {purse['usdc']} USDC and {purse['usdcx']} USDCx")


@operator_app.command("withdraw")
def withdraw(
    directory: Directories = None, gateway: Gateway = "", token: Token = "", json: Json = False
) -> None:
    """Claim everything from every epoch and change it into USDC in the payout wallet, which pays the gas."""

    async def take(rpc: Any, manifest: Any, payout: Any, coalitions: Any) -> dict[str, Any]:
        from services.operator_income import purse_of
        from services.operator_income import withdraw as take_all

        before = await purse_of(rpc, manifest, payout.address, coalitions)
        sent = await take_all(rpc, manifest, payout, coalitions)
        after = await purse_of(rpc, manifest, payout.address, coalitions)
        gained = _usdc((after.usdc_micro - before.usdc_micro) * 10**12)
        return {"wallet": payout.address, "withdrawn_usdc": gained, "transactions": sent}

    found = asyncio.run(_each(directory, gateway, token, take))
    if json:
        print_json({"wallets": found})
        return
    for one in found:
        print(f"{one['wallet']} got {one['withdrawn_usdc']} USDC in {len(one['transactions'])} transactions")


@operator_app.command("consent")
def consent(
    pool: Annotated[str, typer.Argument(help="The pool's id.")],
    directory: Directories = None,
    terms: Annotated[
        Path | None, typer.Option(help="JSON file with the coalition's terms. The local chain needs none.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Sign without asking.")] = False,
    follow: Annotated[
        bool, typer.Option("--follow", help="Stay, and sign for each later plan by the same terms.")
    ] = False,
    gateway: Gateway = "",
    token: Token = "",
    json: Json = False,
) -> None:
    """Consent to your nodes' seats in the pool's present plan, and to the bond that they need.

    The payout keys stay here. The coalition's address follows from the terms. Whoever opens the epoch finds
    at the gateway what you signed. With --follow the terms are asked for once; never another contract's, and
    no more bond than a seat's first one. Until SIGTERM, Ctrl-C or the pool's retirement.
    """

    def given(consents: list[dict[str, Any]]) -> None:
        if json:
            print_json({"consents": consents}, line=follow)
            return
        for one in consents:
            text = f"node {one['node_id']} consents to epoch {one['chain_epoch']} of {one['coalition']}"
            print(text, flush=True)

    def say(text: str) -> None:
        print(text, file=sys.stderr if json else sys.stdout, flush=True)

    asked = not (yes or json)
    asyncio.run(_consent(pool, directory, terms, gateway, token, given, say, asked=asked, follow=follow))


async def _consent(
    pool: str, directory: list[Path] | None, terms: Path | None, gateway: str, token: str,
    given: Callable[[list[dict[str, Any]]], None], say: Callable[[str], None], *, asked: bool, follow: bool,
) -> None:  # fmt: skip
    from services.consent_following import follow_consents
    from services.seat_consenting import ConsentNotGiven, consenting
    from services.stack.client import local_settings, operator_token
    from services.until_stopped import until_stopped

    settings = local_settings()
    nodes = _nodes(settings, directory)
    if gateway:
        settings = settings.model_copy(update={"gateway_url": gateway})
    async with AsyncExitStack() as stack:
        token = token or await stack.enter_async_context(operator_token(settings))
        agreed = None
        if asked or not follow:
            found = await consenting(stack, settings, token, pool, nodes, terms)
            if not found.signed and not follow:
                raise ConsentNotGiven(found.why_nothing)
            if asked:
                _show_terms(found)
                typer.confirm("Sign for these and later plans?" if follow else "Sign?", abort=True)
            if found.signed:
                given(await found.give())
            agreed = found.coalition
        if follow:
            await until_stopped(follow_consents(settings, token, pool, nodes, terms, agreed, given, say))


def _show_terms(found: Any) -> None:
    terms = found.terms
    rows = [["coalition", found.coalition], ["steward", terms.steward]]
    rows += [["bond of a seat at least", f"{terms.least_bond_micro / 10**6:.2f} USDC"]]
    rows += [["a breach costs at most", ", ".join(f"{one / 10**6:.2f}" for one in terms.most_per_kind_micro)]]
    rows += [["attestors", f"{terms.quorum} of {len(terms.attestors)}"]]
    rows += [["arbiters", f"{terms.arbiter_quorum} of {len(terms.arbiters)}"]]
    rows += [["time to dispute", f"{terms.dispute_window_s} s"]]
    rows += [["bond leaves after", f"{terms.unbond_delay_s} s"]]
    for one in found.signed:
        bond = "" if one.bond is None else f", bonds {one.bond.micro / 10**6:.2f} USDC more"
        rows += [[f"node {one.node_id}", f"{one.units / 100:.2f} % of epoch {one.chain_epoch}{bond}"]]
    show(table_of(("what", "terms"), rows))


Act = Callable[[Any, Any, Any, Any], Awaitable[dict[str, Any]]]


async def _each(directories: list[Path] | None, gateway: str, token: str, act: Act) -> list[dict[str, Any]]:
    """`act` for each payout wallet once, over the coalitions of every pool that the gateway shows."""
    from services.chain import manifest as manifests
    from services.chain.rpc import connected
    from services.node_keys import NodeKeys
    from services.stack.client import local_settings

    settings = local_settings()
    nodes = _nodes(settings, directories)
    if settings.chain_rpc_url is None:
        raise Failure("no_chain", "nothing runs here and CHAIN_RPC_URL is not set", "computepool up")
    url = settings.chain_rpc_url
    if gateway:
        settings = settings.model_copy(update={"gateway_url": gateway})
    payouts = {keys.payout_wallet: keys.payout for keys in map(NodeKeys.load_or_make, nodes)}
    coalitions = await _coalitions(settings, token)
    async with connected(url) as rpc:
        known = manifests.read(settings.manifest_of(await rpc.chain_id()))
        return [await act(rpc, known, payout, coalitions) for payout in payouts.values()]


def _nodes(settings: Any, directories: list[Path] | None) -> list[Path]:
    from services.node_keys import PAYOUT_KEY_FILE

    nodes = directories or sorted(path for path in (settings.state_dir / "nodes").glob("*") if path.is_dir())
    missing = [path for path in nodes if not (path / PAYOUT_KEY_FILE).exists()]
    if missing or not nodes:
        where = missing[0] if missing else settings.state_dir / "nodes"
        raise Failure("not_joined", f"no {PAYOUT_KEY_FILE} in {where}", "--dir DIRECTORY of a joined node")
    return nodes


async def _coalitions(settings: Any, token: str) -> list[tuple[str, str]]:
    """(pool id, contract) of every pool that was ever payable."""
    from services.gateway_rest import checked, client
    from services.stack.client import operator_token

    found, after = [], ""
    async with AsyncExitStack() as stack:
        token = token or await stack.enter_async_context(operator_token(settings))
        rest = await stack.enter_async_context(client(settings.public_url, token))
        while True:
            params = {"limit": "100", **({"after": after} if after else {})}
            page = checked(await rest.get("/pools", params=params))
            found += [(one["pool_id"], one["coalition"]) for one in page["items"] if one["coalition"]]
            if not page["has_more"]:
                return found
            after = str(page["items"][-1]["pool_id"])


def _shown(purse: Any) -> dict[str, Any]:
    """Amounts exactly, as wei and as USDC."""
    incomes = [
        {
            "pool_id": income.pool_id,
            "coalition": income.coalition,
            "chain_epoch": income.chain_epoch,
            "gda_pool": income.gda_pool,
            "units": income.units,
            "claimable_wei": str(income.claimable_wei),
            "claimable_usdc": _usdc(income.claimable_wei),
            "claimed_wei": str(income.claimed_wei),
            "claimed_usdc": _usdc(income.claimed_wei),
        }
        for income in purse.incomes
    ]
    usdc, usdcx = _usdc(purse.usdc_micro * 10**12), _usdc(purse.usdcx_wei)
    return {"wallet": purse.wallet, "incomes": incomes, "usdc": usdc, "usdcx": usdcx}


def _usdc(wei: int) -> str:
    """`1.5`, without an exponent and without a rounding."""
    whole, rest = divmod(wei, 10**18)
    return f"{whole}.{rest:018d}".rstrip("0").rstrip(".")
