"""The network on one machine: NATS, PostgreSQL, chain (unless external ones are named), roles, local nodes.

Knows the order and what each role needs; knows nothing of pools or requests.
"""

import asyncio
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from services import bus, credentials, generations, migrate
from services.access import NatsAccess
from services.chain import anvil
from services.chain.wallets import verifier_key
from services.join import Endpoints, Joined, join, write_configs
from services.log import ensure_streams
from services.node_keys import NodeKeys
from services.rebuild import rebuild
from services.settings import Settings
from services.stack import postgres, register
from services.stack.chain import start_chain
from services.stack.node import ROOT as ROOT
from services.stack.node import plain_environment, program, start_node
from services.stack.process import NotReady, Process, Running
from services.stack.readiness import Probe, http, log_line
from services.stack.supervisor import Supervisor, supervising

KEEPERHUB_KEY = "KEEPERHUB_API_KEY"


class PortBusy(Exception):
    """port_busy: another program has the gateway's port; set COMPUTEPOOL_GATEWAY_PORT (0: any free one)."""

    code = "port_busy"


class Stack:
    """A started stack. `settings` has every address filled in; use `stack_of` to make one."""

    def __init__(self, settings: Settings, supervisor: Supervisor) -> None:
        self.settings = settings
        self.supervisor = supervisor
        self.chain_is_local = False
        self._mesh_listens: list[str] = []

    async def start(self) -> None:
        """Servers, schema, streams, roles. Raises what the failing part raises, naming it."""
        self.settings = self.settings.model_copy(update={"gateway_port": self._gateway_port()})
        self.supervisor.say("starting", "NATS, PostgreSQL and the chain")
        async with asyncio.TaskGroup() as parts:
            parts.create_task(self._start_nats())
            parts.create_task(self._start_postgres())
            parts.create_task(self._start_chain())
        self.supervisor.say("starting", "orchestrator, projector, keeper, gateway")
        gateway = f"{self.settings.public_url}/livez"
        async with asyncio.TaskGroup() as parts:
            parts.create_task(self.add(self._role("orchestrator", log_line('"event": ?"caught_up"'))))
            parts.create_task(self._start_projector())
            parts.create_task(self.add(self._role("keeper", log_line('"event": ?"ready"'))))
            parts.create_task(self.add(self._role("gateway", http(gateway))))
        self.supervisor.note_address("gateway", self.settings.public_url)
        self.supervisor.environment.update(client_environment(self.settings))
        self.supervisor.record()

    async def add(self, spec: Process) -> Running:
        return await self.supervisor.start(spec)

    async def add_nodes(
        self, labels: Sequence[str], operator_token: str, model_dirs: Sequence[Path] = ()
    ) -> list[Joined]:
        """Join and start one mesh node and one worker per label, in directories `<state_dir>/nodes/<label>`.

        Raises GatewayRefused, NotReady, ProgramMissing.
        """
        joined = await self.join_nodes(labels, operator_token, model_dirs)
        for label in labels:
            await start_node(self.supervisor, self.settings.state_dir / "nodes" / label)
        return joined

    async def add_verifiers(self, model_dirs: Sequence[Path] = ()) -> None:
        """The attestors that the local chain's coalitions name, a process each. Raises NotReady."""
        models = [word for path in model_dirs for word in ("--models", str(path))]
        async with asyncio.TaskGroup() as parts:
            for number in range(1, self.settings.verifiers + 1):
                key, gateway = verifier_key(self.settings, number), self.settings.public_url
                words = ("-m", "services.verifier", "--key", str(key), "--gateway", gateway, *models)
                ready = log_line('"event": ?"ready"')
                environment = {**plain_environment(), **role_environment(self.settings)}
                spec = Process(f"verifier-{number}", (sys.executable, *words), ready, environment)
                parts.create_task(self.add(spec))

    async def follow_plan(self, pool_id: str) -> None:
        """Keep the pool's coalition at the plan that serves, with the payout keys of this directory's nodes.

        Raises NotReady.
        """
        argv = (sys.executable, "-m", "services.coalition_following", "--pool", pool_id)
        ready = log_line('"event": ?"ready"')
        await self.add(Process("follower", argv, ready, environment_of("follower", self.settings)))

    async def join_nodes(
        self, labels: Sequence[str], operator_token: str, model_dirs: Sequence[Path] = ()
    ) -> list[Joined]:
        """As `add_nodes`, but nothing is started: their configurations may still be changed.

        Raises GatewayRefused.
        """
        base = self.settings.state_dir / "nodes"
        directories = [base / label for label in labels]
        keys = {d.name: NodeKeys.load_or_make(d).mesh_key for d in directories}
        others = [NodeKeys.load_or_make(d).mesh_key for d in base.iterdir() if d.is_dir()]
        allowed = sorted({*keys.values(), *others})
        joined = []
        for directory in directories:
            gateway = self.settings.public_url
            joined.append(await join(directory, directory.name, gateway, operator_token))
            listen = f"tls://127.0.0.1:{free_port()}"
            endpoints = Endpoints(
                listen, free_port(), tuple(self._mesh_listens), self.settings.nats_url or ""
            )
            write_configs(directory, endpoints, model_dirs or self.settings.model_dirs, allowed)
            self._mesh_listens.append(listen)
        return joined

    async def new_token(self, kind: credentials.Kind, label: str) -> str:
        """A new credential: to be shown once, since only its hash is kept."""
        return (await credentials.create(database_url(self.settings), kind, label))[1]

    async def _start_nats(self) -> None:
        if self.settings.nats_url is None:
            access = NatsAccess.of(self.settings)
            port = kept_port(self.settings.state_dir, "NATS_URL")
            config = access.write(port=port)
            argv = (str(program("nats-server")), "-c", str(config.resolve()))
            url = f"nats://127.0.0.1:{port}"
            await self.add(Process("nats", argv, log_line("Server is ready"), plain_environment()))
            self.supervisor.note_address("nats", url)
            self.settings = self.settings.model_copy(update={"nats_url": url})
        client = await bus.connect(self.settings, "admin")
        try:
            await ensure_streams(client, self.settings.nats_replicas)
        finally:
            await bus.close(client)

    async def _start_postgres(self) -> None:
        if self.settings.database_url is None:
            log = self.supervisor.logs / "postgres.log"
            server = await postgres.start(self.settings.state_dir.resolve() / "postgres", log)
            self.supervisor.adopt("postgres", server.pid, log, server.stop, signal.SIGINT)
            self.supervisor.note_address("postgres", str(server.socket_dir))
            self.settings = self.settings.model_copy(update={"database_url": SecretStr(server.url())})
        await asyncio.to_thread(migrate.upgrade, database_url(self.settings))

    async def _start_chain(self) -> None:
        """An external chain's contracts are put there by `computepool chain deploy`, not by a start."""
        if self.settings.chain_rpc_url is not None:
            return
        self.chain_is_local = True
        port = kept_port(self.settings.state_dir, "CHAIN_RPC_URL")
        directory = self.settings.state_dir.resolve() / "chain"
        manifest = self.settings.manifest_of(anvil.CHAIN_ID)
        url = await start_chain(self.supervisor, directory, manifest, port)
        self.settings = self.settings.model_copy(update={"chain_rpc_url": url})

    async def _start_projector(self) -> None:
        """A read model of other projections than this program's is rebuilt from the log first."""
        projector = self._role("projector", log_line('"event": ?"following"'))
        try:
            await self.add(projector)
        except NotReady as ended:
            if generations.GenerationOutdated.code not in str(ended):
                raise
            self.supervisor.say("starting", "read model: rebuilding, since its projections have changed")
            await rebuild(self.settings, lambda _: None)
            await self.add(projector)

    def _role(self, name: str, ready: Probe) -> Process:
        argv = (sys.executable, "-m", f"services.{name}")
        return Process(name, argv, ready, environment_of(name, self.settings))

    def _gateway_port(self) -> int:
        wanted = self.settings.gateway_port
        if wanted == 0:
            return free_port()
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self.settings.gateway_host, wanted))
            except OSError as busy:
                raise PortBusy(
                    f"port {wanted} is taken; set COMPUTEPOOL_GATEWAY_PORT to another one (0: any free one)"
                ) from busy
        return wanted


@asynccontextmanager
async def stack_of(
    settings: Settings,
    *,
    sweep_first: bool = False,
    prepare: Callable[[Stack], Awaitable[None]] | None = None,
) -> AsyncIterator[Stack]:
    """A stack that owns `settings.state_dir`, started; at the end everything it started is stopped.

    `prepare` runs before the stack counts as ready. Raises StackBusy; StackSurvivors unless `sweep_first`
    ends what an earlier run left.
    """
    state_dir = settings.state_dir.resolve()
    settings = settings.model_copy(
        update={"state_dir": state_dir, "model_dirs": tuple(path.resolve() for path in settings.model_dirs)}
    )
    async with supervising(state_dir, sweep_first=sweep_first) as supervisor:
        stack = Stack(settings, supervisor)
        try:
            await stack.start()
            if prepare is not None:
                await prepare(stack)
        except ExceptionGroup as failed:
            first = failed.exceptions[0]
            raise first from first.__cause__
        supervisor.say("ready")
        yield stack


def database_url(settings: Settings) -> str:
    if settings.database_url is None:
        raise ValueError("no database: the stack is not started and DATABASE_URL is not set")
    return settings.database_url.get_secret_value()


def environment_of(role: str, settings: Settings) -> dict[str, str]:
    """All of a role's process. The key of KeeperHub is the keeper's alone."""
    found = {**plain_environment(), **role_environment(settings)}
    return {name: value for name, value in found.items() if name != KEEPERHUB_KEY or role == "keeper"}


def role_environment(settings: Settings) -> dict[str, str]:
    """Every setting as the variable `Settings` reads it from."""
    found = {}
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        if value is not None:
            found[variable(name, field)] = _spelled(value)
    return found


def client_environment(settings: Settings) -> dict[str, str]:
    """What a client on this machine needs and anyone may know; the database only when it is ours."""
    found = {
        "COMPUTEPOOL_GATEWAY_URL": settings.public_url,
        "NATS_URL": settings.nats_url or "",
        "CHAIN_RPC_URL": settings.chain_rpc_url or "",
    }
    url = database_url(settings)
    if "?host=" in url:
        found["DATABASE_URL"] = url
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def kept_port(state_dir: Path, variable: str) -> int:
    """The port of the last start when it is free (nodes remember it), else a free one."""
    last = register.read(state_dir).environment.get(variable, "").rpartition(":")[2]
    if last.isdigit():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", int(last)))
                return int(last)
            except OSError:
                pass
    return free_port()


def variable(name: str, field: FieldInfo) -> str:
    alias = field.validation_alias
    first = getattr(alias, "choices", [None])[0]
    return str(first) if first else f"COMPUTEPOOL_{name.upper()}"


def _spelled(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, tuple):
        return json.dumps([str(item) for item in value])
    return str(value)
