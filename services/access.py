"""Who may do what on NATS: every role's permission template, the server configuration made of them, and its
reload.

The one place where a subject permission is written. Knows nothing of what the messages say.

Three accounts. `CP` holds the streams. Nodes (`NODES`) and readers (`READERS`) stand in accounts of their
own and reach single subjects of `CP` by service import: inside one account a client that may publish
anything can name `cp.events.…` as the *reply* subject and have the server itself write there, past every
permission.
"""

import asyncio
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import nats
from nats.aio.client import Client
from nats.errors import Error as NatsError

from events.envelope import EVENTS_STREAM
from services.nkey import is_public_user_key, kept_seed, public_key
from services.settings import Settings
from services.stream_names import CHECKPOINTS_STREAM, COMMITTED_PREFIX, RECEIPTS, RECEIPTS_STREAM, STREAMS
from services.whole_file import write_whole
from shard_runtime.messages import COMMANDS_STREAM, REPORTS_STREAM, command_consumer, inbox_prefix
from shard_runtime.probes import probe_subject

PROBES = probe_subject("*")
"""Nodes answer these, from their account; the gateway asks on behalf of attestors."""
_PROBES_OUT = f'exports: [ {{ service: "{PROBES}", response_type: singleton, accounts: [CP] }} ]'
_PROBES_IN = f'imports: [ {{ service: {{ account: NODES, subject: "{PROBES}" }} }} ]'

ROLES = ("system", "admin", "gateway", "orchestrator", "projector", "auditor", "keeper")
"""Single-instance roles; besides them one `worker` per node."""

CONF_FILE = "nats.conf"
ACCOUNTS_FILE = "accounts.conf"
WORKERS_FILE = "workers.json"
WRITERS_FILE = "writers.json"
"""Public key to the event kinds it may write: what an auditor is given beside the log. No secret."""
WRITERS = {
    "gateway": ("session",),
    "orchestrator": ("node", "pool", "session", "slash", "stream", "workflow"),
    "keeper": ("session", "slash", "stream", "workflow"),
}

_NODE_ID = re.compile(r"^[0-9a-z]{26}$")
_TOKEN = re.compile(r"^[A-Za-z0-9_-]+$")


class AccessInvalid(ValueError):
    """access_invalid: a node id or NATS key is malformed; nothing was changed."""

    code = "access_invalid"


class ReloadFailed(Exception):
    """reload_failed: the server did not take its new user list; see its log, then repeat: nothing is lost."""

    code = "reload_failed"


@dataclass(frozen=True)
class Grant:
    """What one user may publish to and subscribe to. `answers`: it may reply once to what it is asked."""

    account: str
    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()
    answers: bool = False


def _api(*names: str) -> tuple[str, ...]:
    return tuple(f"$JS.API.{name}" for name in names)


_READ_EVENTS = _api(
    f"STREAM.INFO.{EVENTS_STREAM}", f"STREAM.MSG.GET.{EVENTS_STREAM}", f"DIRECT.GET.{EVENTS_STREAM}"
)
_READ_CHECKPOINTS = _api(
    f"STREAM.INFO.{CHECKPOINTS_STREAM}",
    f"STREAM.MSG.GET.{CHECKPOINTS_STREAM}",
    f"DIRECT.GET.{CHECKPOINTS_STREAM}",
)
_DIRECT_EVENTS, _DIRECT_CHECKPOINTS = _READ_EVENTS[-1], _READ_CHECKPOINTS[-1]
"""All that a reader needs. The rest of JetStream's API looks for a stream in the reader's own account."""
_DOORBELL = f"{COMMITTED_PREFIX}.>"


def grant(role: str, member: str | None = None) -> Grant:
    """The permissions of a role. `member` is the node id of a worker, by default the role's own name."""
    member = member or role
    inbox = f"{inbox_prefix(role, member)}.>"
    match role:
        case "system":
            return Grant("SYS", ("$SYS.REQ.SERVER.>",), (inbox,))
        case "admin":
            return Grant(
                "CP",
                _api(
                    "INFO", *(f"STREAM.{verb}.{s}" for s in STREAMS for verb in ("CREATE", "UPDATE", "INFO"))
                ),
                (inbox,),
            )
        case "gateway":
            return Grant(
                "CP",
                (
                    "cp.events.session.*",
                    "cp.commands.*.generate",
                    "cp.commands.*.cancel",
                    "cp.control",
                    PROBES,
                    *_READ_EVENTS,
                    *_api(f"DIRECT.GET.{RECEIPTS_STREAM}.{RECEIPTS}.*"),
                ),
                (inbox, "cp.tokens.*.*", "cp.alive.*", _DOORBELL),
                answers=True,
            )
        case "orchestrator":
            # It answers gateway and keeper by name: leave to answer once is forgotten at a reload, and an
            # answered registration always comes after one.
            return Grant(
                "CP",
                (
                    "cp.events.*.*",
                    "cp.commands.*.*",
                    "cp.dlq.>",
                    "cp.checkpoints.orchestrator",
                    f"{RECEIPTS}.*",
                    *_READ_EVENTS,
                    *_READ_CHECKPOINTS,
                    *_consumers_of(REPORTS_STREAM, "orchestrator"),
                    f"$JS.ACK.{REPORTS_STREAM}.orchestrator.>",
                    *_consumers_of(COMMANDS_STREAM, "*"),
                    f"{inbox_prefix('gateway', 'gateway')}.>",
                    f"{inbox_prefix('keeper', 'keeper')}.>",
                ),
                (inbox, "cp.alive.*", "cp.control", "cp.control.keeper", _DOORBELL),
            )
        case "keeper":
            written = ("session", "slash", "stream", "workflow")
            events = (f"cp.events.{kind}.*" for kind in written)
            return Grant("CP", (*events, "cp.control.keeper", *_READ_EVENTS), (inbox, _DOORBELL))
        case "projector":
            return Grant("READERS", (_DIRECT_EVENTS,), (inbox, _DOORBELL))
        case "auditor":
            return Grant("READERS", (_DIRECT_EVENTS, _DIRECT_CHECKPOINTS), (inbox, _DOORBELL))
        case "worker":
            own = command_consumer(member)
            return Grant(
                "NODES",
                (
                    f"cp.reports.{member}.*",
                    f"cp.tokens.{member}.*",
                    f"cp.alive.{member}",
                    f"$JS.API.CONSUMER.MSG.NEXT.{COMMANDS_STREAM}.{own}",
                    f"$JS.ACK.{COMMANDS_STREAM}.{own}.>",
                ),
                (inbox, probe_subject(member)),
                answers=True,
            )
    raise AccessInvalid(f"no role {role!r}")


def _consumers_of(stream: str, name: str) -> tuple[str, ...]:
    """Make, look at, remove consumers called `name`; pull from them only when the name is one consumer's."""
    own = name != "*"
    return _api(
        f"STREAM.INFO.{stream}",
        f"CONSUMER.CREATE.{stream}.{name}",
        f"CONSUMER.CREATE.{stream}.{name}.>",
        f"CONSUMER.DURABLE.CREATE.{stream}.{name}",
        f"CONSUMER.INFO.{stream}.{name}",
        *((f"CONSUMER.MSG.NEXT.{stream}.{name}",) if own else (f"CONSUMER.DELETE.{stream}.{name}",)),
    )


_SHARED: Mapping[str, tuple[tuple[str, str], ...]] = {
    "NODES": (
        ("cp.reports.*.*", "singleton"),
        ("cp.tokens.*.*", "singleton"),
        ("cp.alive.*", "singleton"),
        (f"$JS.API.CONSUMER.MSG.NEXT.{COMMANDS_STREAM}.*", "stream"),
        (f"$JS.ACK.{COMMANDS_STREAM}.>", "singleton"),
    ),
    "READERS": ((_DIRECT_EVENTS, "stream"), (_DIRECT_CHECKPOINTS, "stream")),
}
"""Services of CP that another account reaches: (subject, how many answers one request may have)."""


def accounts_conf(keys: Mapping[str, str], workers: Mapping[str, str]) -> str:
    """The accounts block. `keys`: role -> public nkey of ROLES; `workers`: node id -> public nkey."""
    users: dict[str, list[str]] = {"SYS": [], "CP": [], "READERS": [], "NODES": []}
    for role in ROLES:
        allowed = grant(role)
        users[allowed.account].append(_user(keys[role], allowed))
    for node_id, key in sorted(workers.items()):
        allowed = grant("worker", node_id)
        users[allowed.account].append(_user(key, allowed))
    services = [
        f'      {{ service: "{subject}", response_type: {answers}, accounts: [{account}] }}'
        for account, shared in _SHARED.items()
        for subject, answers in shared
    ]
    services.append(f'      {{ stream: "{_DOORBELL}", accounts: [READERS] }}')
    return "\n".join(
        [
            "# Made by services.access; changes are overwritten. No secret is in here.",
            "system_account: SYS",
            "accounts {",
            _account("SYS", users["SYS"]),
            _account("CP", users["CP"], "jetstream: enabled", _listed("exports", services), _PROBES_IN),
            _account("READERS", users["READERS"], _listed("imports", _imports("READERS"))),
            _account("NODES", users["NODES"], _listed("imports", _imports("NODES")), _PROBES_OUT),
            "}",
            "",
        ]
    )


def _imports(account: str) -> list[str]:
    found = [
        f'      {{ service: {{ account: CP, subject: "{subject}" }} }}' for subject, _ in _SHARED[account]
    ]
    if account == "READERS":
        found.append(f'      {{ stream: {{ account: CP, subject: "{_DOORBELL}" }} }}')
    return found


def _account(name: str, users: Iterable[str], *blocks: str) -> str:
    lines = [f"  {name} {{", *(f"    {block}" for block in blocks), f"    {_listed('users', users)}", "  }"]
    return "\n".join(lines)


def _listed(name: str, items: Iterable[str]) -> str:
    return f"{name}: [\n" + "\n".join(items) + "\n    ]"


def _user(key: str, allowed: Grant) -> str:
    replies = ', allow_responses: { max: 1, expires: "1m" }' if allowed.answers else ""
    publish = ", ".join(f'"{subject}"' for subject in allowed.publish)
    subscribe = ", ".join(f'"{subject}"' for subject in allowed.subscribe)
    return (
        f"      {{ nkey: {key}, permissions: {{\n"
        f"          publish: {{ allow: [{publish}] }}\n"
        f"          subscribe: {{ allow: [{subscribe}] }}{replies} }} }}"
    )


def server_conf(host: str, port: int, store_dir: str, server_name: str = "computepool") -> str:
    """The server's own configuration; the accounts come from the file beside it.

    `sync_interval: always`: what was acknowledged survives a power cut. `store_dir`: the JetStream data.
    """
    return f"""# Made by services.access (compose/nats.conf is the same template); changes are overwritten.
server_name: {json.dumps(server_name)}
listen: "{host}:{port}"
max_payload: 1MB
max_control_line: 4KB
write_deadline: "10s"
jetstream {{
  store_dir: {json.dumps(store_dir)}
  sync_interval: always
}}
include "{ACCOUNTS_FILE}"
"""


@dataclass
class NatsAccess:
    """The files in `conf_dir` and the seeds in `seeds_dir`.

    All changes are idempotent and survive a restart.
    """

    conf_dir: Path
    seeds_dir: Path
    url: str | None = None
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(settings.state_dir / "nats", settings.seeds_dir, settings.nats_url)

    @property
    def conf_path(self) -> Path:
        return self.conf_dir / CONF_FILE

    def write(
        self, *, host: str = "127.0.0.1", port: int = 4222, store_dir: Path | str | None = None
    ) -> Path:
        """Make missing seeds, write both configuration files, return the path for `nats-server -c`."""
        self.conf_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        store = store_dir or (self.conf_dir / "jetstream").resolve()
        write_whole(self.conf_path, server_conf(host, port, str(store)).encode())
        self.write_accounts()
        return self.conf_path

    def write_accounts(self) -> None:
        """Write the user list from the seeds and the admitted workers."""
        self.conf_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        keys = {role: public_key(kept_seed(self.seed_path(role))) for role in ROLES}
        write_whole(self.conf_dir / ACCOUNTS_FILE, accounts_conf(keys, self.workers()).encode())
        writers = {keys[role]: kinds for role, kinds in WRITERS.items()}
        write_whole(self.conf_dir / WRITERS_FILE, (json.dumps(writers, indent=1) + "\n").encode())

    def seed_path(self, role: str) -> Path:
        return self.seeds_dir / f"{role}.nk"

    def workers(self) -> dict[str, str]:
        """node id -> public nkey of every admitted worker."""
        try:
            found: dict[str, str] = json.loads((self.conf_dir / WORKERS_FILE).read_text())
        except FileNotFoundError:
            return {}
        return found

    def admit(self, node_id: str, nats_key: str) -> None:
        """Give a node its user; takes effect at the next `reload`. Raises AccessInvalid."""
        if not _NODE_ID.match(node_id):
            raise AccessInvalid(f"node id {node_id!r}")
        if not is_public_user_key(nats_key):
            raise AccessInvalid(f"NATS key of node {node_id}")
        workers = self.workers()
        taken = {key: owner for owner, key in workers.items()}
        if taken.get(nats_key, node_id) != node_id:
            raise AccessInvalid(f"NATS key of node {node_id} belongs to node {taken[nats_key]}")
        self._keep({**workers, node_id: nats_key})

    def expel(self, node_id: str) -> None:
        """Take a node's user away; the next `reload` cuts its connection."""
        self._keep({key: value for key, value in self.workers().items() if key != node_id})

    def _keep(self, workers: dict[str, str]) -> None:
        self.conf_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(
            self.conf_dir / WORKERS_FILE, (json.dumps(workers, indent=1, sort_keys=True) + "\n").encode()
        )
        self.write_accounts()

    async def reload(self, timeout_s: float = 5) -> None:
        """Have every server of the system read its configuration again. Raises ReloadFailed."""
        async with self._lock:
            client = await _connect_system(self.url, self.seed_path("system"), timeout_s)
            try:
                for server_id in await _server_ids(client, timeout_s):
                    reply = await client.request(
                        f"$SYS.REQ.SERVER.{server_id}.RELOAD", b"", timeout=timeout_s
                    )
                    refused = json.loads(reply.data).get("error")
                    if refused:
                        raise ReloadFailed(f"{server_id}: {refused}")
            except NatsError as away:
                raise ReloadFailed(repr(away)) from away
            finally:
                await client.close()


async def _connect_system(url: str | None, seed: Path, timeout_s: float) -> Client:
    async def quiet(_: Exception) -> None:
        return None

    try:
        return await nats.connect(
            url or "nats://127.0.0.1:4222",
            nkeys_seed=str(seed),
            inbox_prefix=inbox_prefix("system", "system"),
            allow_reconnect=False,
            connect_timeout=max(1, int(timeout_s)),
            error_cb=quiet,
        )
    except (NatsError, OSError, TimeoutError) as away:
        raise ReloadFailed(repr(away)) from away


async def _server_ids(client: Client, timeout_s: float) -> list[str]:
    """Every server of the cluster. The one we are connected to says how many others it has routes to."""
    own = str(client._server_info["server_id"])
    reply = await client.request(f"$SYS.REQ.SERVER.{own}.ROUTEZ", b"", timeout=timeout_s)
    routes = json.loads(reply.data).get("data", {}).get("routes") or []
    return [own, *sorted({str(route["remote_id"]) for route in routes} - {own})]
