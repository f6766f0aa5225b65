"""One node's two processes, mesh node and worker, from a prepared directory. Knows no control plane."""

import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path

from services.join import MESH_CONFIG_FILE, WORKER_CONFIG_FILE
from services.load_display import display_on, follow
from services.stack.process import Process, Running
from services.stack.readiness import json_line, log_line
from services.stack.supervisor import Supervisor, supervising

ROOT = Path(__file__).resolve().parents[2]
WORKER_READY = r'"event": ?"worker_started"'


class ProgramMissing(Exception):
    """program_missing: a program of the set-up is not there; `make setup` makes it."""

    code = "program_missing"


class NodeEnded(Exception):
    """node_ended: one of the node's two processes ended by itself; its log says why."""

    code = "node_ended"


WORKER = ("-m", "shard_runtime.worker")


async def start_node(supervisor: Supervisor, directory: Path, program: tuple[str, ...] = WORKER) -> Running:
    """From `mesh.json`, `worker.json` and the keys; the worker. Raises NotReady, ProgramMissing."""
    mesh, worker = f"mesh-{directory.name}", f"worker-{directory.name}"
    config = str(directory.resolve() / MESH_CONFIG_FILE)
    node = Process(mesh, (str(axl_node()), "-config", config), json_line("api"), worker_environment())
    supervisor.note_address(mesh, str((await supervisor.start(node)).learned["api"]))
    config = str(directory.resolve() / WORKER_CONFIG_FILE)
    argv = (sys.executable, *program, "--config", config)
    return await supervisor.start(
        Process(worker, argv, log_line(WORKER_READY), worker_environment(), ready_within_s=90)
    )


async def run_node(directory: Path) -> None:
    """Until SIGTERM or SIGINT. Raises NodeEnded."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with supervising(directory.resolve() / "run", sweep_first=True) as supervisor:
        worker = await start_node(supervisor, directory)
        supervisor.say("ready")
        print(f"node of {directory} runs; logs: {supervisor.logs}", flush=True)
        waiting = asyncio.create_task(stop.wait())
        showing = asyncio.create_task(follow(worker.output.stderr, display_on(sys.stdout), waiting.done))
        while not waiting.done():
            await asyncio.wait([waiting], timeout=0.5)
            ended = [entry for entry in supervisor.entries() if entry.exit_status is not None]
            if ended:
                waiting.cancel()
                await asyncio.gather(waiting, showing, return_exceptions=True)
                raise NodeEnded(f"{ended[0].name} ended with {ended[0].exit_status}; see {ended[0].log}")
        await showing


def plain_environment() -> dict[str, str]:
    """The caller's, with one thread per process for numeric libraries (two cores carry many processes) and
    with bytecode kept: torch and transformers take seconds to compile."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **kept}


def worker_environment() -> dict[str, str]:
    """Without the control plane's settings: an operator's machine has none of them."""
    hidden = ("DATABASE_URL", "NATS_URL", "COMPUTEPOOL_", "KEEPERHUB_")
    return {name: value for name, value in plain_environment().items() if not name.startswith(hidden)}


def program(name: str) -> Path:
    """A program of the environment, else of the machine. Raises ProgramMissing."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise ProgramMissing(
            f"{name} is neither beside {sys.executable} nor on PATH; `make setup` installs it"
        )
    return Path(found)


def axl_node() -> Path:
    """The mesh node `make setup` built. Raises ProgramMissing."""
    built = ROOT / "bin" / "axl_node"
    return built if built.exists() else program("axl_node")
