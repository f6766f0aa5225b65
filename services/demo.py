"""The demo: a stack from nothing, a model cut over two processes, paid prompts, and the proof of it all.

Plays the operator and the client through the public interfaces only; knows nothing of how they do it. Every
claim it prints is checked, and a claim that fails makes the exit code 1.
"""

import asyncio
import json
import os
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
from openai import AsyncOpenAI
from rich.console import Console
from rich.table import Table

from events.envelope import Recorded
from services import bus, credentials, demo_money, demo_runs, demo_slash
from services.chain.rpc import connected
from services.coalition_opening import open_coalition
from services.demo_money import Market
from services.gateway_rest import checked
from services.gateway_rest import client as rest_client
from services.local_pool import form_pool
from services.log import EventLog
from services.log_audit import audit_log
from services.logging import configure
from services.node_keys import NodeKeys
from services.projection_check import check
from services.settings import Settings
from services.stack import register
from services.stack.node import ROOT
from services.stack.stack import Stack, database_url, stack_of
from services.stack.supervisor import sweep

MODEL = ROOT / "tests" / "models" / "tales"
POOL = "tales"
LABELS = ("north", "south")
MAX_TOKENS = 160
PROMPTS: tuple[str, str, str] = (
    "Tell me a story about a brave fox named Mira.",
    "Write a short story about a shy otter named Pim.",
    "What happened when an old kettle lost a brass key?",
)


@dataclass
class Claims:
    """What the demo says is true, and whether it was."""

    console: Console
    failed: list[str] = field(default_factory=list)

    def check(self, claim: str, holds: bool, detail: str = "") -> None:
        mark = "[green]true [/]" if holds else "[red]FALSE[/]"
        self.console.print(f"  {mark} {claim}" + (f"  [dim]{detail}[/]" if detail else ""))
        if not holds:
            self.failed.append(claim)


@dataclass
class Answer:
    """One generation as its client saw it; times in seconds on the client's clock."""

    prompt: str
    text: str
    session_id: str
    finish_reason: str
    completion_tokens: int
    first_token_s: float
    total_s: float
    hops: list[dict[str, Any]]


async def run(model_dir: Path, out: Console) -> int:
    """The whole story; returns the exit code."""
    began = time.monotonic()
    claims = Claims(out)
    state_dir = (Settings().state_dir / "demo").resolve()
    await _start_afresh(state_dir)
    settings = Settings().model_copy(
        update={
            "state_dir": state_dir,
            "gateway_port": 0,
            "nats_url": None,
            "database_url": None,
            "nats_seeds_dir": None,
            "model_dirs": (model_dir.parent,),
            "local_probe_window_s": demo_slash.PROBE_WINDOW_S,
            "local_dispute_window_s": demo_slash.DISPUTE_WINDOW_S,
        }
    )
    out.rule("[bold]1  starting: nats-server, PostgreSQL, anvil, orchestrator, projector, keeper, gateway")
    async with stack_of(settings, sweep_first=True) as stack:
        _show_processes(out, stack, began)
        token = await _new_token(stack, "operator", "demo")
        out.rule("[bold]2  two nodes join; a pool with a price is formed, its operators bond and consent")
        joined = await stack.add_nodes(LABELS, token, (model_dir.parent,))
        await stack.add_verifiers()
        for label, node in zip(LABELS, joined, strict=True):
            out.print(f"  node.registered    {node.node_id}  ({label}), log position {node.position}")
        pool = await form_pool(
            stack.settings.public_url,
            token,
            [state_dir / "nodes" / label for label in LABELS],
            model_dir,
            name=POOL,
            price_wei_per_s=str(demo_money.PRICE_WEI_PER_S),
            say=lambda line: out.print("  " + line),
        )
        directories = [state_dir / "nodes" / label for label in LABELS]
        pool = await open_coalition(
            stack.settings, token, pool["pool_id"], directories, say=lambda line: out.print("  " + line)
        )
        for shard in pool["shards"]:
            out.print(f"  {shard['node_id']}: layers {shard['first_layer']}..{shard['end_layer'] - 1}")
        url = stack.settings.chain_rpc_url or ""
        async with rest_client(stack.settings.public_url, token) as rest, connected(url) as rpc:
            contracts = demo_money.manifest_of(stack.settings)
            market = Market(stack.settings, POOL, rpc, contracts, rest, out)
            await _talk_and_prove(stack, token, pool, model_dir, claims, market)
    out.rule()
    left = [entry.name for entry in stack.supervisor.entries() if entry.state() == "running"]
    claims.check("everything that was started has stopped", not left, ", ".join(left))
    verdict = "[green]all claims hold[/]" if not claims.failed else f"[red]failed: {claims.failed}[/]"
    out.print(f"{verdict}; {time.monotonic() - began:.1f} s")
    return 1 if claims.failed else 0


async def _start_afresh(state_dir: Path) -> None:
    """End what a killed demo left, and forget its data. Raises StackBusy while another demo runs."""
    with register.owned(state_dir):
        await sweep(state_dir)
        for path in state_dir.iterdir():
            if path.is_dir():
                shutil.rmtree(path)


async def _new_token(stack: Stack, kind: Literal["operator", "api_key"], label: str) -> str:
    return (await credentials.create(database_url(stack.settings), kind, label))[1]


def _show_processes(out: Console, stack: Stack, began: float) -> None:
    for entry in stack.supervisor.entries():
        out.print(f"  {entry.name:<13} pid {entry.identity.pid:<7} {entry.address}")
    out.print(f"  [dim]{time.monotonic() - began:.1f} s[/]")


async def _talk_and_prove(
    stack: Stack, token: str, pool: dict[str, Any], model_dir: Path, claims: Claims, market: Market
) -> None:
    out, url = claims.console, stack.settings.public_url
    out.rule("[bold]3  402, one signed voucher, then a prompt through the official openai client")
    await demo_money.refused_without_payment(market, claims.check)
    agent = await market.agent("first")
    bought = await agent.buy()
    out.print(f"  session {agent.session_id}: {bought['paid_micro']} micro-USDC from {bought['payer']}")
    client = AsyncOpenAI(base_url=f"{url}/v1", api_key=agent.key, max_retries=0, timeout=120)
    out.print(f"[cyan]> {PROMPTS[0]}[/]")
    first = await _streamed(client, PROMPTS[0], out)
    out.rule("[bold]4  two prompts at once in the same session")
    second, third = await asyncio.gather(*(_whole(client, prompt) for prompt in PROMPTS[1:]))
    for answer in (second, third):
        out.print(f"[cyan]> {answer.prompt}[/]\n{answer.text.strip()}\n")
    answers = (first, second, third)
    await agent.settle()

    out.rule(f"[bold]5  the history of session {first.session_id}, from the log")
    history = await _history(stack.settings, first.session_id)
    _show_history(out, history)
    out.rule("[bold]6  its read model, from PostgreSQL")
    async with rest_client(url, token) as rest:
        settled = {"at_least": history[-1].sequence}
        row = checked(await rest.get(f"/sessions/{first.session_id}", params=settled))
    out.print_json(json.dumps(row))
    out.rule("[bold]7  what was claimed, checked")
    types = [recorded.type.split(".")[1] for recorded in history]
    claims.check(
        "the session was paid, opened, asked three times, closed and settled, in this order",
        types[:3] == ["payment_verified", "payment_settled", "opened"]
        and sorted(types[3:9]) == ["generation_ended"] * 3 + ["request_started"] * 3
        and types[9:] == ["close_requested", "settled"],
        ", ".join(types),
    )
    claims.check(
        "every answer ended by itself or at its limit, with text",
        all(answer.finish_reason in ("stop", "length") and answer.text.strip() for answer in answers),
        ", ".join(f"{answer.completion_tokens} tokens ({answer.finish_reason})" for answer in answers),
    )
    compared = await check(stack.settings)
    claims.check(
        "the read model equals a fresh replay of the log",
        compared.rows > 0 and not compared.differences,
        f"{compared.rows} rows at sequence {compared.sequence}, {len(compared.differences)} differences",
    )
    report = await audit_log(stack.settings)
    claims.check(
        "the auditor finds nothing wrong in the log: order, versions, ids, signatures, writers",
        report.events > 0 and report.sound,
        f"{report.events} events, Merkle root {report.root[:16]}…"
        if report.sound
        else str(report.findings[:3]),
    )
    alone = await _single_process(model_dir)
    claims.check(
        "the two shards' tokens are those of single-process generate",
        all(alone[answer.prompt]["text"] == answer.text for answer in answers),
    )
    _show_timings(out, pool, answers, alone)
    out.rule("[bold]9  money: side by side, walked away, run dry, withdrawn")
    await demo_money.side_by_side(market, PROMPTS[:2], claims.check)
    await demo_money.walks_away(market, PROMPTS[0], claims.check)
    await demo_money.runs_dry(market, PROMPTS[1], claims.check)
    north = stack.settings.state_dir / "nodes" / LABELS[0]
    await demo_money.operator_withdraws(market, north, pool, claims.check)
    out.rule("[bold]10  an operator stalls in the middle of a paid answer")
    workers = {entry.name: entry.identity.pid for entry in stack.supervisor.entries()}
    worker = workers[f"worker-{_last_label(stack, pool)}"]
    await demo_slash.an_operator_stalls(market, worker, pool, PROMPTS[0], claims.check)
    out.rule("[bold]11  every transition: who asked, which run, which transaction")
    await demo_runs.shows_runs(market, claims.check)
    await demo_money.accounts_balance(market, claims.check)


def _last_label(stack: Stack, pool: dict[str, Any]) -> str:
    """The name of the node that has the ring's last layers."""
    last = max(pool["shards"], key=lambda shard: int(shard["first_layer"]))["node_id"]
    nodes = stack.settings.state_dir / "nodes"
    return next(label for label in LABELS if NodeKeys.load_or_make(nodes / label).node_id == last)


async def _streamed(client: AsyncOpenAI, prompt: str, out: Console) -> Answer:
    began = time.monotonic()
    text, finish, tokens, first_s = "", "", 0, 0.0
    async with client.chat.completions.with_streaming_response.create(
        model=POOL,
        messages=[{"role": "user", "content": prompt}],
        temperature=0,
        max_tokens=MAX_TOKENS,
        stream=True,
        stream_options={"include_usage": True},
    ) as response:
        hops: list[dict[str, Any]] = []
        async for line in response.iter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            chunk = json.loads(line.removeprefix("data: "))
            if "error" in chunk:
                raise RuntimeError(f"the stream failed: {chunk['error']}")
            if "computepool" in chunk:
                hops = chunk["computepool"]["timings"]["stages"]
            if chunk.get("usage"):
                tokens = chunk["usage"]["completion_tokens"]
            for choice in chunk["choices"]:
                piece = choice["delta"].get("content") or ""
                if piece:
                    first_s = first_s or time.monotonic() - began
                    text += piece
                    out.print(piece, end="", highlight=False, markup=False, soft_wrap=True)
                finish = choice["finish_reason"] or finish
        session_id = response.headers["x-computepool-session"]
    out.print("\n")
    return Answer(prompt, text, session_id, finish, tokens, first_s, time.monotonic() - began, hops)


async def _whole(client: AsyncOpenAI, prompt: str) -> Answer:
    began = time.monotonic()
    raw = await client.chat.completions.with_raw_response.create(
        model=POOL,
        messages=[{"role": "user", "content": prompt}],
        temperature=0,
        max_tokens=MAX_TOKENS,
    )
    completion = raw.parse()
    choice, usage = completion.choices[0], completion.usage
    return Answer(
        prompt,
        choice.message.content or "",
        raw.headers["x-computepool-session"],
        choice.finish_reason,
        usage.completion_tokens if usage else 0,
        0.0,
        time.monotonic() - began,
        [],
    )


async def _history(settings: Settings, session_id: str, within_s: float = 60) -> tuple[Recorded, ...]:
    """The session's events, read as an auditor, once it is settled."""
    client = await bus.connect(settings, "auditor")
    try:
        log = await EventLog.open(client, None)
        deadline = time.monotonic() + within_s
        while True:
            recorded = (await log.history("session", session_id)).recorded
            if (recorded and recorded[-1].type.startswith("session.settled")) or time.monotonic() > deadline:
                return recorded
            await asyncio.sleep(0.05)
    finally:
        await bus.close(client)


def _show_history(out: Console, history: tuple[Recorded, ...]) -> None:
    table = Table("position", "v", "event", "after", "what", box=None, pad_edge=False)
    start = history[0].time_unix_ms
    for recorded in history:
        facts = json.loads(_spelled(recorded.event))
        facts.pop("type")
        what = ", ".join(f"{k}={_short(v)}" for k, v in facts.items() if v is not None)
        after = f"{recorded.time_unix_ms - start} ms"
        table.add_row(
            f"{recorded.sequence}/{recorded.index}", str(recorded.version), recorded.type, after, what
        )
    out.print(table)


def _spelled(event: Any) -> bytes:
    return msgspec.json.encode(event)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 26 else text[:12] + "…"


async def _single_process(model_dir: Path) -> dict[str, dict[str, Any]]:
    """The same prompts by Hugging Face `generate` in one process of its own, one thread."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.bench.single_process",
        str(model_dir),
        str(MAX_TOKENS),
        *PROMPTS,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await child.communicate()
    if child.returncode != 0:
        raise RuntimeError("single-process generate failed")
    return dict(json.loads(out.splitlines()[-1]))


def _show_timings(
    out: Console, pool: dict[str, Any], answers: tuple[Answer, ...], alone: dict[str, dict[str, Any]]
) -> None:
    out.rule("[bold]8  where the time went")
    layers = {
        shard["node_id"]: f"{shard['first_layer']}..{shard['end_layer'] - 1}" for shard in pool["shards"]
    }
    hops = Table("node", "layers", "compute ms/token", "hop in ms", box=None, pad_edge=False)
    for hop in answers[0].hops:
        compute, hop_in = f"{hop['compute_ms']:.2f}", f"{hop['hop_in_ms']:.2f}"
        hops.add_row(hop["node_id"], layers.get(hop["node_id"], "?"), compute, hop_in)
    out.print(hops)
    first = answers[0]
    decoded_s = first.total_s - first.first_token_s
    rate = (first.completion_tokens - 1) / decoded_s if decoded_s > 0 else 0.0
    both = sum(answer.completion_tokens for answer in answers[1:]) / max(a.total_s for a in answers[1:])
    single = alone[first.prompt]["tokens_per_s"]
    out.print(f"  first token after {first.first_token_s * 1000:.0f} ms")
    out.print(f"  one request  : {rate:6.1f} tokens/s over two shards")
    out.print(f"  two at once  : {both:6.1f} tokens/s together")
    out.print(f"  single process generate: {single:6.1f} tokens/s (the model is tiny: hops weigh most here)")


async def main(model_dir: Path = MODEL) -> int:
    """Entry of `computepool demo`; the exit code."""
    configure("error")
    return await run(model_dir, Console(highlight=False, soft_wrap=True))
