"""The whole network of real processes for end-to-end tests: a stack, two local nodes, one pool, a client.

Knows how to look at it from outside (HTTP, heartbeats, the log as an auditor) and how to kill and restart a
part; knows no assertion of a test.
"""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import openai
from nats.aio.client import Client
from nats.aio.msg import Msg

from events.envelope import Recorded
from services import bus
from services.auditor.verify import Report, verify
from services.coalition_opening import open_coalition
from services.join import MESH_CONFIG_FILE
from services.local_pool import form_pool
from services.log import EventLog, Writer
from services.node_keys import NodeKeys
from services.settings import Settings
from services.stack import postgres
from services.stack.identity import lives
from services.stack.node import ROOT, WORKER, start_node
from services.stack.stack import Stack, stack_of
from shard_runtime.messages import Alive, alive_subject

MODEL = ROOT / "tests" / "models" / "tales"
POOL = "tales"
LABELS = ("north", "south")
LIAR = ("-m", "tests.lying_worker")
WITHIN_S = 60.0

_alive = msgspec.json.Decoder(Alive)


class Network:
    """A running one. `pool` is the pool as the gateway showed it when it became active."""

    def __init__(self, stack: Stack, operator: str, key: str, pool: dict[str, Any]) -> None:
        self.stack, self.operator, self.key, self.pool = stack, operator, key, pool
        self.labels = {
            NodeKeys.load_or_make(path).node_id: path.name
            for path in sorted((self.settings.state_dir / "nodes").iterdir())
        }

    @property
    def settings(self) -> Settings:
        return self.stack.settings

    @property
    def node_ids(self) -> tuple[str, ...]:
        """In ring order, the entry first."""
        return tuple(shard["node_id"] for shard in self.pool["shards"])

    def node_dir(self, label: str) -> Path:
        return self.settings.state_dir / "nodes" / label

    def worker(self, node_id: str) -> str:
        """The name of that node's worker process."""
        return f"worker-{self.labels[node_id]}"

    def openai(self, key: str | None = None) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=f"{self.settings.public_url}/v1",
            api_key=key or self.key,
            max_retries=0,
            timeout=WITHIN_S,
            http_client=httpx.AsyncClient(trust_env=False, timeout=WITHIN_S),
        )

    def rest(self, token: str | None = None) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self.settings.public_url,
            headers={"authorization": f"Bearer {token or self.key}"},
            timeout=WITHIN_S,
            trust_env=False,
        )

    async def ready(self) -> bool:
        """Whether /readyz says that every part is well."""
        try:
            async with self.rest() as client:
                return (await client.get("/readyz")).status_code == 200
        except httpx.HTTPError:
            return False

    @asynccontextmanager
    async def role(self, role: str) -> AsyncIterator[Client]:
        """A connection of the test's own with that role's rights."""
        client = await bus.connect(self.settings, role)
        try:
            yield client
        finally:
            await client.close()

    async def history(self, session_id: str) -> tuple[Recorded, ...]:
        """The session's events so far, read as an auditor."""
        async with self.role("auditor") as client:
            return (await (await EventLog.open(client, None)).history("session", session_id)).recorded

    async def closed(self, session_id: str, within_s: float = WITHIN_S) -> tuple[Recorded, ...]:
        """The session's events once it is settled or expired. Raises AssertionError."""
        async with self.role("auditor") as client:
            events = await EventLog.open(client, None)
            deadline = time.monotonic() + within_s
            while True:
                recorded = (await events.history("session", session_id)).recorded
                if recorded and recorded[-1].type in ("session.settled.v1", "session.expired.v1"):
                    return recorded
                if time.monotonic() > deadline:
                    raise AssertionError(f"session {session_id} is not closed: {recorded}")
                await asyncio.sleep(0.05)

    async def idle(self, within_s: float = WITHIN_S) -> None:
        """Returns when every node's newest heartbeat, sent after this call, has no request and no KV slot.

        Raises AssertionError with what each node last said.
        """
        said: dict[str, Alive] = {}
        began_unix_ms = time.time_ns() // 1_000_000

        async def heard(message: Msg) -> None:
            alive = _alive.decode(message.data)
            if alive.sent_unix_ms > began_unix_ms:
                said[alive.node_id] = alive

        async with self.role("gateway") as client:
            await client.subscribe(alive_subject("*"), cb=heard)
            deadline = time.monotonic() + within_s
            while not all(
                node_id in said and said[node_id].kv_slots_used == said[node_id].active_requests == 0
                for node_id in self.node_ids
            ):
                if time.monotonic() > deadline:
                    raise AssertionError(f"not idle within {within_s} s: {said}")
                await asyncio.sleep(0.05)

    async def audit(self) -> Report:
        """What the auditor says of the whole log."""
        seeds = self.settings.seeds_dir
        gateway, orchestrator = (
            Writer.load(seeds / f"{role}.nk").public_key for role in ("gateway", "orchestrator")
        )
        writers = {gateway: ("session",), orchestrator: ("session", "node", "pool")}
        async with self.role("auditor") as client:
            events = await EventLog.open(client, None)
            return await verify(events.read(0, follow=False), writers)

    async def kill(self, name: str) -> None:
        """SIGKILL one process of the stack and wait until it is gone and its supervisor has noticed."""
        [entry] = [entry for entry in self.stack.supervisor.entries() if entry.name == name]
        os.kill(entry.identity.pid, signal.SIGKILL)
        deadline = time.monotonic() + WITHIN_S
        while lives(entry.identity) or not self.noticed(name):
            if time.monotonic() > deadline:
                raise AssertionError(f"{name} outlived a SIGKILL")
            await asyncio.sleep(0.02)

    def noticed(self, name: str) -> bool:
        """Whether the supervisor knows that this process has ended."""
        return any(e.name == name and e.exit_status is not None for e in self.stack.supervisor.entries())

    async def restart(self, name: str) -> None:
        """Start it again as it was started first, and wait until it is ready."""
        supervisor = self.stack.supervisor
        if name == "postgres":
            log = supervisor.logs / "postgres-again.log"
            server = await postgres.start(self.settings.state_dir / "postgres", log)
            supervisor.adopt(name, server.pid, log, server.stop, signal.SIGINT)
        else:
            await supervisor.start(supervisor.running(name).spec)


def _as_stock(node_dir: Path, reorder_ms: int) -> None:
    """Let the node's mesh node behave as a stock one, which knows no allow-list."""
    path = node_dir / MESH_CONFIG_FILE
    mesh = json.loads(path.read_text())
    mesh.pop("allowed_peers", None)
    path.write_text(json.dumps(mesh | {"stock": True, "stock_reorder_ms": reorder_ms}))


@asynccontextmanager
async def network(
    state_dir: Path,
    say: Callable[[str], None] = lambda _: None,
    stock_reorder_ms: int | None = None,
    spares: tuple[str, ...] = (),
    price_wei_per_s: int = 0,
    deterministic: bool = False,
    lies: dict[str, str] | None = None,
    **settings_changed: Any,
) -> AsyncIterator[Network]:
    """Two nodes that serve `tales` as one pool, and `spares` that do nothing; all of it stops at the end.

    With a price its coalition is opened, so that it can be paid. `lies`: by label, see tests.lying_worker.
    `stock_reorder_ms`: over stock mesh nodes whose messages overtake each other within so long; None: ours.
    """
    settings = Settings().model_copy(
        update={
            "state_dir": state_dir,
            "gateway_port": 0,
            "nats_url": None,
            "database_url": None,
            "nats_seeds_dir": None,
            "model_dirs": (MODEL.parent,),
            **settings_changed,
        }
    )
    async with stack_of(settings) as stack:
        operator = await stack.new_token("operator", "test")
        nodes = [stack.settings.state_dir / "nodes" / label for label in LABELS]
        await stack.join_nodes((*LABELS, *spares), operator, (MODEL.parent,))
        for node in [*nodes, *(nodes[0].parent / label for label in spares)]:
            if stock_reorder_ms is not None:
                _as_stock(node, stock_reorder_ms)
            lie = (lies or {}).get(node.name)
            await start_node(stack.supervisor, node, WORKER if lie is None else (*LIAR, lie))
        url, price = stack.settings.public_url, str(price_wei_per_s)
        pool = await form_pool(
            url,
            operator,
            nodes,
            MODEL,
            name=POOL,
            price_wei_per_s=price,
            deterministic=deterministic,
            say=say,
        )
        if price_wei_per_s:
            pool = await open_coalition(stack.settings, operator, pool["pool_id"], nodes)
        yield Network(stack, operator, await stack.new_token("api_key", "test client"), pool)
