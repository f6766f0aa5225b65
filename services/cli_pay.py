"""The commands of a client with a wallet: pay for a session, chat. Knows nothing of how money flows."""

import asyncio
import os
import sys
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli_chain import chain_app
from services.cli_output import Failure, Json, print_json

MICRO = 1_000_000
Model = Annotated[str, typer.Option("--model", help="A pool's name.")]
Wallet = Annotated[
    Path | None,
    typer.Option(help="Keystore or hex key file; default: COMPUTEPOOL_WALLET_KEY in the environment."),
]
Most = Annotated[str, typer.Option(help="The most that one voucher may be, in USDC.")]
Budget = Annotated[
    str, typer.Option(help="Pay so much USDC, what is not used comes back; default: as asked.")
]
Ttl = Annotated[
    int, typer.Option("--ttl", min=0, help="Seconds the session may last; 0: as the gateway says.")
]
Gateway = Annotated[
    str, typer.Option(envvar="COMPUTEPOOL_GATEWAY_URL", help="The gateway's URL; default: the local one.")
]
Network = Annotated[
    list[str] | None, typer.Option(help="Pay on this chain only (eip155:ID); repeatable; default: any.")
]


def register(app: typer.Typer) -> None:
    app.command("pay")(pay)
    app.command("chat")(chat)
    chain_app.command("faucet")(faucet)


def pay(
    model: Model,
    budget: Budget = "",
    most: Most = "5",
    ttl: Ttl = 0,
    wallet: Wallet = None,
    gateway: Gateway = "",
    network: Network = None,
    json: Json = False,
) -> None:
    """Buy a session of a priced pool: answer its 402 with one signed voucher, and print the session's key."""
    agent = _agent(model, budget, most, ttl, wallet, gateway, network)
    made = asyncio.run(agent.buy())
    if json:
        print_json(made)
        return
    print(f"session {made['session_id']}: {usdc(int(made['paid_micro']))} USDC from {made['payer']}")
    print(f"key     {made['session_key']}")
    print(f"ask     computepool chat --model {model} --session-key {made['session_key']}")


def chat(
    prompt: Annotated[
        str, typer.Argument(metavar="[PROMPT]", help="None: a conversation, until Ctrl-D.")
    ] = "",
    model: Model = "tales",
    session_key: Annotated[
        str,
        typer.Option(envvar="COMPUTEPOOL_KEY", help="A session's key or an API key: then nothing is paid."),
    ] = "",
    max_tokens: Annotated[int, typer.Option(min=0, help="Per answer; 0: what the context leaves.")] = 0,
    transcript: Annotated[
        Path | None,
        typer.Option(
            help="Keep in this file what proves the paid answer: its tokens and its nodes' receipts."
        ),
    ] = None,
    budget: Budget = "",
    most: Most = "5",
    ttl: Ttl = 0,
    wallet: Wallet = None,
    gateway: Gateway = "",
    network: Network = None,
    json: Json = False,
) -> None:
    """Talk to a pool. Buys a session when none is named, and settles it at the end: the rest comes back."""
    if transcript is not None:
        _check_place(transcript, one_answer=bool(prompt) or not sys.stdin.isatty())
    if session_key:
        agent = _agent(model, budget, most, ttl, wallet, gateway, network, key=session_key)
    else:
        agent = _agent(model, budget, most, ttl, wallet, gateway, network)
    prompts = [prompt] if prompt else None
    if prompts is None and not sys.stdin.isatty():
        prompts = [sys.stdin.read().strip()]
    said = asyncio.run(_talk(agent, prompts, max_tokens, transcript, quiet=json))
    if json:
        print_json(said)


def faucet(
    wallet: Annotated[Path, typer.Option(help="A key file; made (0600) when there is none.")],
    amount: Annotated[str, typer.Option(help="USDC.")] = "10",
    json: Json = False,
) -> None:
    """Give a wallet play money of the local chain, to try `pay` and `chat` with."""
    held = asyncio.run(_mint(wallet, micro(amount)))
    if json:
        print_json(held)
    else:
        print(f"{held['wallet']} holds {usdc(held['usdc_micro'])} USDC of the local chain")


async def _mint(path: Path, amount_micro: int) -> dict[str, Any]:
    from services.chain import manifest, play_money, wallets
    from services.chain.rpc import connected
    from services.money_audit import ChainNotConfigured
    from services.payer import wallet_of
    from services.stack.client import local_settings

    settings = local_settings()
    if not settings.chain_rpc_url:
        raise ChainNotConfigured(ChainNotConfigured.__doc__ or "")
    account = wallet_of(path) if path.exists() else wallets.kept_at(path)
    async with connected(settings.chain_rpc_url) as rpc:
        contracts = manifest.read(settings.manifest_of(await rpc.chain_id()))
        held = await play_money.mint(rpc, contracts, account.address, amount_micro)
    return {"wallet": account.address, "usdc_micro": held}


def _check_place(path: Path, *, one_answer: bool) -> None:
    """Before anything is paid. Raises Failure."""
    if not one_answer:
        raise Failure("transcript_of_one_answer", "a conversation has many answers", "give a PROMPT")
    if path.is_dir() or not os.access(path.absolute().parent, os.W_OK):
        raise Failure(
            "transcript_unwritable", f"{path} can't be written", "name a file in your own directory"
        )


async def _talk(
    agent: Any, prompts: list[str] | None, max_tokens: int, transcript: Path | None, *, quiet: bool
) -> dict[str, Any]:
    from services.agent import Spoken

    messages: list[dict[str, str]] = []
    answers = []
    limits: dict[str, Any] = {"max_completion_tokens": max_tokens} if max_tokens else {}
    if transcript is not None:
        limits["transcript"] = True
    try:
        while True:
            prompt = prompts.pop(0) if prompts else await _typed() if prompts is None else ""
            if not prompt:
                break
            messages.append({"role": "user", "content": prompt})
            spoken = Spoken()
            async for piece in agent.ask(messages, spoken, **limits):
                if not quiet:
                    print(piece, end="", flush=True)
            if not quiet:
                print()
            if transcript is not None:
                _write(transcript, spoken.transcript)
            messages.append({"role": "assistant", "content": spoken.text})
            answers.append(
                {"text": spoken.text, "finish_reason": spoken.finish_reason, "tokens": spoken.tokens}
            )
    finally:
        if agent.session_id is not None:
            await agent.settle()
    return {"answers": answers, "sessions": [made["session_id"] for made in agent.bought]}


def _write(path: Path, transcript: dict[str, Any] | None) -> None:
    """The file, and on stderr whose receipts are in it. Raises Failure, OSError."""
    import msgspec

    from services.whole_file import write_whole

    if transcript is None:
        raise Failure("transcript_missing", "the answer came without a transcript", "upgrade the gateway")
    write_whole(path, msgspec.json.format(msgspec.json.encode(transcript), indent=1) + b"\n")
    signed = {node["node_id"] for node in transcript["receipts"]}
    silent = [node["node_id"] for node in transcript["members"] if node["node_id"] not in signed]
    whose = f"; nothing from {', '.join(silent)}" if silent else ""
    print(f"{path}: receipts of {len(signed)} of {len(transcript['members'])} nodes{whose}", file=sys.stderr)


async def _typed() -> str:
    try:
        return (await asyncio.to_thread(input, "> ")).strip()
    except EOFError:
        return ""


def _agent(
    model: str,
    budget: str,
    most: str,
    ttl: int,
    wallet: Path | None,
    gateway: str,
    networks: list[str] | None,
    key: str | None = None,
) -> Any:
    """An agent with a wallet; with `key`, one without."""
    from services.agent import Agent
    from services.payer import Payer, wallet_of
    from services.stack.client import local_settings

    url = gateway or local_settings().public_url
    if key is not None:
        return Agent(url, model, key=key)
    payer = Payer(wallet_of(wallet), micro(most), frozenset(networks or ()), on_payment=_tell)
    return Agent(url, model, payer, budget_micro=micro(budget) if budget else None, ttl_s=ttl or None)


def _tell(offer: Any) -> None:
    print(f"paying {usdc(int(offer.amount))} USDC to {offer.pay_to} on {offer.network}", file=sys.stderr)


def micro(text: str) -> int:
    """ "0.25" USDC are 250 000. Raises Failure."""
    try:
        exact = Decimal(text) * MICRO
    except InvalidOperation as broken:
        raise Failure("amount_invalid", f"{text!r} is no amount", "such as 0.25") from broken
    if not exact.is_finite() or exact <= 0 or exact != exact.to_integral_value():
        raise Failure("amount_invalid", f"{text} USDC is not a positive number of micro-USDC", "such as 0.25")
    return int(exact)


def usdc(micro_usdc: int) -> str:
    return f"{Decimal(micro_usdc) / MICRO:f}"
