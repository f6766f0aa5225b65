"""The commands about the local stack: start it detached, stop it, list it, read its logs.

Knows the register on disk and the supervisor's process, not what the roles do.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from events.shares import WEI_PER_MICRO
from services.cli_output import Failure
from services.settings import Settings
from services.stack import register
from services.stack.client import local_model, local_settings
from services.stack.identity import lives, signal_group
from services.stack.supervisor import survivors, sweep
from shard_runtime.architectures import ArchitectureUnsupported, check_architecture

POLL_S = 0.1
STOP_WITHIN_S = 90.0


async def bring_up(nodes: int, model: str, pool: str, price: str = "0") -> None:
    """Start the supervisor detached, follow its progress, print what to try. Raises Failure."""
    settings = Settings()
    state_dir = settings.state_dir
    record = register.read(state_dir)
    if record.supervisor and lives(record.supervisor):
        print(f"runs already ({record.phase}, pid {record.supervisor.pid}); `computepool ps` lists it")
        return
    left = survivors(state_dir)
    if left:
        names = ", ".join(f"{entry.name} (pid {entry.identity.pid})" for entry in left)
        raise Failure("stack_survivors", f"still running from a killed start: {names}", "computepool down")
    if nodes:
        _check_model(model, settings.model_dirs)
    if not price.isdecimal() or int(price) % WEI_PER_MICRO:
        text = f"{price!r} is no whole number of micro-USDC per second"
        raise Failure("price_invalid", text, f"--price {50 * WEI_PER_MICRO}")
    logs = state_dir / "logs"
    logs.mkdir(parents=True, exist_ok=True, mode=0o700)
    argv = [sys.executable, "-m", "services.stack.detached", "--nodes", str(nodes), "--model", model]
    with (logs / "supervisor.log").open("wb") as log:
        child = subprocess.Popen(
            [*argv, "--pool", pool, "--price", str(int(price))],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    await _follow_start(child, state_dir)
    await _say_what_to_try(local_settings(settings), pool or Path(model).name, nodes, priced=price != "0")


def _check_model(model: str, model_dirs: Sequence[Path]) -> None:
    """Before anything is started. Raises ModelNotFound, Failure."""
    directory = local_model(model, model_dirs)
    try:
        check_architecture(json.loads((directory / "config.json").read_bytes()))
    except ArchitectureUnsupported as refused:
        raise Failure(refused.code, str(refused), "computepool up --model ANOTHER") from refused
    except ValueError as broken:
        raise Failure(
            "model_unreadable", f"{directory}/config.json: {broken}", "computepool up --model ANOTHER"
        ) from broken


async def _follow_start(child: subprocess.Popen[bytes], state_dir: Path) -> None:
    began, told = time.monotonic(), ""
    while True:
        status = child.poll()
        record = register.read(state_dir)
        ours = record.supervisor is not None and record.supervisor.pid == child.pid
        if ours and record.detail != told and record.phase in ("starting", "ready"):
            told = record.detail
            if told:
                print(f"[{time.monotonic() - began:5.1f} s] {told}", flush=True)
        if ours and record.phase == "ready":
            print(f"[{time.monotonic() - began:5.1f} s] ready", flush=True)
            return
        if status is not None:
            why = (
                record.detail if ours and record.detail else _tail(state_dir / "logs" / "supervisor.log", 15)
            )
            raise Failure("stack_not_started", why, "computepool doctor; computepool logs")
        await asyncio.sleep(POLL_S)


async def _say_what_to_try(settings: Settings, pool: str, nodes: int, *, priced: bool) -> None:
    from services import credentials

    database = settings.database_url
    url = settings.public_url
    key = "$COMPUTEPOOL_KEY"
    if database is not None and not await credentials.exists(database.get_secret_value(), "operator"):
        _, token = await credentials.create(database.get_secret_value(), "operator", "first start")
        print(f"\noperator token (shown once, kept only as a hash):\n  {token}")
    if database is not None and not await credentials.exists(database.get_secret_value(), "api_key"):
        _, key = await credentials.create(database.get_secret_value(), "api_key", "first start")
        print(f"API key (shown once):\n  {key}")
    else:
        print("\nan API key: computepool keys create --label me   then: export COMPUTEPOOL_KEY=…")
    body = f'{{"model":"{pool}","stream":true,"messages":[{{"role":"user","content":"Tell me a story."}}]}}'
    print(f"\ngateway: {url}   (page: {url}/docs)\ntry:")
    if nodes and priced:
        print("  computepool chain faucet --wallet me.key")
        print(f"  computepool chat 'Tell me a story.' --model {pool} --wallet me.key")
    elif nodes:
        print(f"  curl -N {url}/v1/chat/completions -H 'Authorization: Bearer {key}' \\")
        print(f"    -H 'Content-Type: application/json' -d '{body}'")
    print(f"  curl {url}/v1/models -H 'Authorization: Bearer {key}'")
    print(f"  curl {url}/readyz")
    print("  computepool ps | nodes | pools | sessions | logs -f | down")


async def take_down(*, quiet: bool = False) -> list[str]:
    """Ask the supervisor to stop, wait for it, then end what is left. Returns the survivors' names."""
    state_dir = Settings().state_dir
    record = register.read(state_dir)
    supervisor = record.supervisor
    if supervisor and lives(supervisor):
        if not quiet:
            print(f"stopping {len(record.processes)} processes (supervisor {supervisor.pid})", flush=True)
        os.kill(supervisor.pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_WITHIN_S
        while lives(supervisor):
            if time.monotonic() > deadline:
                signal_group(supervisor, signal.SIGKILL)
            await asyncio.sleep(POLL_S)
        last = register.read(state_dir)
        if last.phase == "failed" and not quiet:
            print(f"while stopping: {last.detail}", file=sys.stderr)
    ended = [f"{entry.name} (pid {entry.identity.pid})" for entry in await sweep(state_dir)]
    if not quiet:
        print(f"ended survivors: {', '.join(ended)}" if ended else "nothing runs here")
    return ended


def process_list() -> dict[str, Any]:
    """What `ps --json` prints."""
    import psutil

    state_dir = Settings().state_dir
    record = register.read(state_dir)
    supervised = record.supervisor is not None and lives(record.supervisor)
    left = [] if supervised else survivors(state_dir)
    entries = record.processes if supervised else tuple(left)
    processes = []
    for entry in entries:
        state = entry.state()
        rss = uptime = None
        if state == "running":
            try:
                process = psutil.Process(entry.identity.pid)
                rss = process.memory_info().rss
                uptime = time.time() - process.create_time()
            except psutil.Error:
                state = "gone"
        processes.append(
            {
                "name": entry.name,
                "pid": entry.identity.pid,
                "state": state if supervised else "survivor",
                "address": entry.address,
                "rss_bytes": rss,
                "uptime_s": None if uptime is None else round(uptime, 1),
                "log": entry.log,
            }
        )
    phase = record.phase if supervised else "survivors" if left else "stopped"
    failed = not supervised and not left and record.phase == "failed"
    return {
        "phase": "failed" if failed else phase,
        "detail": record.detail if supervised or failed else "",
        "supervisor_pid": record.supervisor.pid if supervised and record.supervisor else None,
        "gateway_url": record.environment.get("COMPUTEPOOL_GATEWAY_URL") if supervised else None,
        "processes": processes,
    }


def process_table(found: dict[str, Any]) -> Any:
    """`process_list` as a rich renderable."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    title = Text(f"stack: {found['phase']} {found['detail']}".strip())
    if found["phase"] == "survivors":
        title.append(" of a killed supervisor: `computepool down` ends them")
    table = Table(box=None)
    for column in ("NAME", "PID", "STATE", "ADDRESS", "MEMORY", "UP"):
        table.add_column(column, justify="right" if column in ("PID", "MEMORY", "UP") else "left")
    for entry in found["processes"]:
        memory = "" if entry["rss_bytes"] is None else f"{entry['rss_bytes'] / 2**20:.0f} MiB"
        age = "" if entry["uptime_s"] is None else f"{entry['uptime_s']:.0f} s"
        table.add_row(entry["name"], str(entry["pid"]), entry["state"], entry["address"], memory, age)
    return Group(title, table) if found["processes"] else title


def follow_logs(name: str, follow: bool, lines: int) -> None:
    """Raises Failure when there is no such log."""
    directory = Settings().state_dir / "logs"
    paths = [directory / f"{name}.log"] if name else sorted(directory.glob("*.log"))
    paths = [path for path in paths if path.exists()]
    if not paths:
        known = ", ".join(path.stem for path in sorted(directory.glob("*.log"))) or "none yet"
        raise Failure("log_not_found", f"no log {name!r} in {directory} (there: {known})", "computepool ps")
    read_to: dict[Path, int] = {}
    for path in paths:
        prefix = f"{path.stem}: " if len(paths) > 1 else ""
        read_to[path] = path.stat().st_size
        for line in _tail(path, lines).splitlines():
            print(prefix + line)
    while follow:
        for path in paths:
            size = path.stat().st_size if path.exists() else 0
            start = read_to[path] if size >= read_to[path] else 0
            if size > start:
                with path.open("rb") as file:
                    file.seek(start)
                    text = file.read(size - start).decode(errors="replace")
                prefix = f"{path.stem}: " if len(paths) > 1 else ""
                print("".join(prefix + line for line in text.splitlines(keepends=True)), end="", flush=True)
            read_to[path] = size
        time.sleep(0.3)


def _tail(path: Path, lines: int) -> str:
    if not path.exists() or lines == 0:
        return ""
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
