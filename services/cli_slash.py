"""The commands about breaches: reporting, voting as an attestor, disputing as the accused, and looking."""

import asyncio
import json as json_text
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli_output import Failure, Json, Models, print_json, read_file, show, table_of

slash_app = typer.Typer(help="Breaches: evidence, votes, claims.", no_args_is_help=True)
SlashId = Annotated[str, typer.Argument(help="A breach's id; see `computepool slash show`.")]
Token = Annotated[
    str, typer.Option(envvar="COMPUTEPOOL_TOKEN", help="A token of the network; default: a passing one.")
]


def register(app: typer.Typer) -> None:
    app.add_typer(slash_app, name="slash")


@slash_app.command("report")
def report(
    session: Annotated[str, typer.Argument(help="The paid session that the node failed.")],
    node: Annotated[str, typer.Argument(help="The node's id.")],
    kind: Annotated[
        str, typer.Option(help="no_show, stall, equivocation, wrong_output or meter_fraud.")
    ] = "stall",
    transcript: Annotated[
        list[Path] | None,
        typer.Option(
            help="The payer's transcript of the answer, as proof; two of the same request for equivocation. "
            "What it proves becomes public: for wrong_output and meter_fraud, prompt and answer as token ids."
        ),
    ] = None,
    evidence: Annotated[
        Path | None, typer.Option(help="A file of canonical evidence; silences are probed by the attestors.")
    ] = None,
    json: Json = False,
    token: Token = "",
) -> None:
    """Report a breach by the terms of the session's coalition; the same breach is reported once."""
    made = asyncio.run(_report(session, node, kind, evidence, transcript or [], token))
    if json:
        print_json(made)
        return
    proof = f", evidence {made['evidence_hash']}" if "evidence_hash" in made else ""
    print(f"breach {made['slash_id']}{proof}")


@slash_app.command("vote")
def vote(
    slash_id: SlashId,
    key: Annotated[Path, typer.Option(help="The attestor's key file (hex).")],
    dissent: Annotated[
        str, typer.Option(help="Dissent for this reason, e.g. answered_me, whatever the evidence says.")
    ] = "",
    models: Models = None,
    json: Json = False,
) -> None:
    """Judge the evidence from its bytes, sign what follows, and send it; an attestor's first word counts."""
    cast = asyncio.run(_vote(slash_id, key, dissent, models))
    if json:
        print_json(cast)
        return
    print(f"{cast['attestor']}: {cast['verdict']} {cast['reason']}".rstrip() + f"; {cast['stage']}")


@slash_app.command("dispute")
def dispute(
    slash_id: SlashId,
    directory: Annotated[
        Path | None, typer.Option("--dir", help="The accused node's directory. Default: among local nodes.")
    ] = None,
    json: Json = False,
) -> None:
    """Dispute the claim on the chain with the accused's payout key; a counter-bond is locked meanwhile."""
    sent = asyncio.run(_dispute(slash_id, directory))
    if json:
        print_json(sent)
    else:
        print(f"claim {sent['claim_id']} is disputed: {sent['transaction']}")


@slash_app.command("prove")
def prove(
    transcripts: Annotated[list[Path], typer.Argument(help="Two transcripts of the same request.")],
    wallet: Annotated[
        Path | None,
        typer.Option(
            help="Keystore or hex key file, for the gas; default: COMPUTEPOOL_WALLET_KEY in the environment."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the call, send nothing.")] = False,
    json: Json = False,
) -> None:
    """Prove to the coalition that a node signed two outputs for one input: no vote, its bond pays at once."""
    made = asyncio.run(_prove(transcripts, wallet, dry_run))
    if json:
        print_json(made)
    elif dry_run:
        print(f"node {made['node_id']}, coalition {made['coalition']}: {made['calldata']}")
    else:
        print(f"node {made['node_id']} is proven to coalition {made['coalition']}: {made['transaction']}")


@slash_app.command("show")
def show_slashes(
    slash_id: Annotated[str, typer.Argument(help="One breach, with its timeline.")] = "", json: Json = False
) -> None:
    """What was reported, who voted how, and what the chain made of it."""
    if slash_id:
        _show_one(json_text.loads(asyncio.run(_fetched(f"/slashes/{slash_id}"))), json)
        return
    rows = json_text.loads(asyncio.run(_fetched("/slashes?limit=100")))["items"]
    if json:
        print_json({"slashes": rows})
        return
    columns = ("slash_id", "state", "kind", "operator", "session_id", "votes", "dissents", "claim_id", "tx")
    show(table_of(columns, [[row[name] for name in columns] for row in rows]))


def _show_one(one: dict[str, Any], json: bool) -> None:
    if json:
        print_json(one)
        return
    case = one["report"]
    print(f"{one['stage']}: {case['kind']} of {case['operator']} (node {case['node_id']})")
    print(f"session {case['session_id']}, coalition {case['coalition']}, evidence {one['evidence_hash']}")
    columns = ("at_ms", "event", "who", "what")
    rows = [
        [item["time_unix_ms"], item["type"], item.get("attestor", ""), _told(item)]
        for item in one["timeline"]
    ]
    show(table_of(columns, rows))


def _told(item: dict[str, Any]) -> str:
    """What is worth a line of one event; of a fact of the chain, its transaction."""
    names = ("verdict", "reason", "code", "claim_id", "amount_micro", "to_payer_micro", "upheld")
    said = [f"{name}={item[name]}" for name in names if item.get(name) not in (None, "")]
    return " ".join([*said, *([item["at"]["tx"]] if "at" in item else [])])


async def _report(
    session: str, node: str, kind: str, evidence: Path | None, files: Sequence[Path], token: str
) -> dict[str, Any]:
    import msgspec

    from events.evidence import assembled
    from events.slash import Reported
    from services.accusing import proof_of, read_transcript
    from services.cli_network import call
    from services.stack.client import local_settings, operator_token

    proof = proof_of(kind, node, [read_transcript(read_file(path)) for path in files]) if files else None
    body: dict[str, Any] = {"session_id": session, "node_id": node, "kind": kind}
    if proof is not None and proof.attempt is not None:
        body |= {"attempt": proof.attempt}
    async with AsyncExitStack() as stack:
        token = token or await stack.enter_async_context(operator_token(local_settings()))
        made = await call("POST", "/slashes", token, body=body)
        sent = None if evidence is None else read_file(evidence)
        if proof is not None:
            shown = json_text.loads(await _fetched(f"/slashes/{made['slash_id']}"))
            case = msgspec.convert(shown["report"], Reported)
            sent = assembled(made["slash_id"], case, receipts=proof.receipts, answer=proof.answer)
        if sent is not None:
            added = await _send(f"/slashes/{made['slash_id']}/evidence", sent, token)
            made |= {"evidence_hash": added["evidence_hash"]}
    return made


async def _vote(slash_id: str, key_file: Path, dissent: str, models: Sequence[Path] | None) -> dict[str, Any]:
    import msgspec

    from events.breach import Breach
    from events.evidence import Dissent
    from events.slash import Reported
    from services.chain.wallets import key_of
    from services.recompute_display import shown_on
    from services.stack.client import local_settings
    from services.verifier.voting import judged, vote_on

    one = await _fetched(f"/slashes/{slash_id}")
    shown: dict[str, Any] = msgspec.json.decode(one)
    evidence_hash = shown["evidence_hash"]
    if evidence_hash is None:
        raise Failure("evidence_missing", f"{slash_id} has no evidence yet", "computepool slash show")
    case = msgspec.convert(shown["report"], Reported)
    if dissent:
        try:
            found: Breach | Dissent = msgspec.convert({"reason": dissent}, Dissent)
        except msgspec.ValidationError as unknown:
            raise Failure("reason_unknown", f"{dissent!r} is no reason", "docs/slashing.md") from unknown
    else:
        body = await _fetched(f"/evidence/{evidence_hash}")
        directories = local_settings().model_dirs if models is None else models
        with shown_on(sys.stderr) as told:
            found = await judged(body, evidence_hash, slash_id, case, directories, told)
    cast = vote_on(key_of(read_file(key_file)), slash_id, case, evidence_hash, found)
    answer = await _send(f"/slashes/{slash_id}/votes", msgspec.json.encode(cast))
    said = {"attestor": cast.attestor, "verdict": cast.verdict, "reason": cast.reason}
    return said | {"evidence_hash": evidence_hash, "stage": answer["stage"]}


async def _dispute(slash_id: str, directory: Path | None) -> dict[str, Any]:
    from services.chain.rpc import connected
    from services.dispute import dispute
    from services.node_keys import PAYOUT_KEY_FILE, NodeKeys
    from services.stack.client import local_settings

    settings = local_settings()
    shown = json_text.loads(await _fetched(f"/slashes/{slash_id}"))
    if shown["claim_id"] is None:
        raise Failure("claim_missing", f"{slash_id} has no claim on the chain", "computepool slash show")
    if settings.chain_rpc_url is None:
        raise Failure("no_chain", "nothing runs here and CHAIN_RPC_URL is not set", "computepool up")
    nodes = [directory] if directory is not None else (settings.state_dir / "nodes").glob("*")
    keys = [NodeKeys.load_or_make(node) for node in nodes if (node / PAYOUT_KEY_FILE).exists()]
    accused = str(shown["report"]["operator"])
    mine = next((one.payout for one in keys if one.payout_wallet.lower() == accused.lower()), None)
    if mine is None:
        raise Failure("not_joined", f"no directory here has the payout key of {accused}", "--dir DIRECTORY")
    async with connected(settings.chain_rpc_url) as rpc:
        sent = await dispute(rpc, mine, shown["report"]["coalition"], int(shown["claim_id"]))
    return {"slash_id": slash_id, "claim_id": shown["claim_id"], "transaction": sent}


async def _prove(files: Sequence[Path], wallet: Path | None, dry_run: bool) -> dict[str, Any]:
    from services.accusing import TranscriptsUnsuited, read_transcript
    from services.chain.rpc import connected
    from services.payer import wallet_of
    from services.proving import contradiction, prove
    from services.stack.client import local_settings

    if len(files) != 2:
        raise TranscriptsUnsuited(f"{len(files)} to prove two outputs by")
    found = contradiction(*(read_transcript(read_file(path)) for path in files))
    said = {"node_id": found.node_id, "coalition": found.coalition.address}
    if dry_run:
        return said | {"calldata": "0x" + found.calldata.hex()}
    rpc_url = local_settings().chain_rpc_url
    if rpc_url is None:
        raise Failure("no_chain", "nothing runs here and CHAIN_RPC_URL is not set", "computepool up")
    async with connected(rpc_url) as rpc:
        return said | {"transaction": await prove(rpc, wallet_of(wallet), found)}


async def _fetched(path: str) -> bytes:
    return await _asked("GET", path, None)


async def _send(path: str, body: bytes, token: str = "") -> dict[str, Any]:
    answer: dict[str, Any] = json_text.loads(await _asked("POST", path, body, token))
    return answer


async def _asked(method: str, path: str, body: bytes | None, token: str = "") -> bytes:
    """Byte for byte: what is hashed and signed must not be spelled again."""
    import httpx

    from services.stack.client import local_settings

    url = local_settings().public_url
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as client:
        try:
            headers = {"content-type": "application/json"}
            headers |= {"authorization": f"Bearer {token}"} if token else {}
            answer = await client.request(method, path, content=body, headers=headers)
        except httpx.TransportError as away:
            text = f"no gateway answers at {url}"
            raise Failure("gateway_away", text, "computepool ps; computepool up") from away
    if answer.is_error:
        refused = dict(answer.json()) if "json" in answer.headers.get("content-type", "") else {}
        code = str(refused.get("code", f"http_{answer.status_code}"))
        raise Failure(code, str(refused.get("detail", "")), str(refused.get("remedy", "")))
    return answer.content
