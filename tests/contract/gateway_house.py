"""A whole control plane of real processes for the gateway's tests, and peers that stand in a worker's
place.

nats-server with the product's permissions, PostgreSQL, orchestrator, projector, gateway. A `Peer` is a
process of its own kind: it joins by the gateway's REST with real keys, pulls its commands with the
worker's own rights and speaks the worker's messages; it computes nothing, so that a test can say what the
tokens are. Knows no assertion.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from nats.aio.client import Client

from services import bus, credentials
from services.join import accept, join
from services.node_keys import NodeKeys
from shard_runtime import messages, sealing
from shard_runtime.commands import CommandQueue
from shard_runtime.receipts import NodeReceipts, Usage
from tests.nats_server import NatsServer, nats_server
from tests.postgres import database

DEADLINE_S = 30.0
TALES = Path(__file__).parents[1] / "models" / "tales"
DIGEST = "ab" * 32


@dataclass
class Service:
    """A child process with its log."""

    name: str
    process: asyncio.subprocess.Process
    log_path: Path

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """Its exit code."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)
        try:
            return await asyncio.wait_for(self.process.wait(), DEADLINE_S)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
            raise


@dataclass
class House:
    """`url` of the gateway; `client` sends the operator token, `as_key` an API key."""

    directory: Path
    nats: NatsServer
    database_url: str
    environment: dict[str, str]
    operator_token: str
    services: dict[str, Service] = field(default_factory=dict)
    url: str = ""

    async def start(self, name: str, **environment: str) -> Service:
        log_path = self.directory / f"{name}.log"
        with log_path.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                f"services.{name}",
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env={**os.environ, **self.environment, **environment},
                start_new_session=True,
            )
        self.services[name] = Service(name, process, log_path)
        return self.services[name]

    async def start_gateway(self, **environment: str) -> None:
        service = await self.start("gateway", **environment)
        assert service.process.stdout is not None
        line = await asyncio.wait_for(service.process.stdout.readline(), DEADLINE_S)
        if not line:
            raise AssertionError(f"the gateway did not start:\n{service.log}")
        self.url = f"http://127.0.0.1:{json.loads(line)['listening']['port']}"

    def client(self, token: str | None = "", **options: Any) -> httpx.AsyncClient:
        """`token` "" is the operator's, None is nobody's. Plain HTTP: without a TLS context, which takes
        20 ms of a core to make, so much that tests which ask again and again would starve what they ask.
        """
        token = self.operator_token if token == "" else token
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        return httpx.AsyncClient(
            base_url=self.url,
            headers=headers,
            timeout=DEADLINE_S,
            trust_env=False,
            verify=False,
            **options,
        )

    async def new_key(self, label: str = "test") -> str:
        async with self.client() as client:
            answer = await client.post("/keys", json={"label": label})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["token"])


@contextlib.asynccontextmanager
async def house(directory: Path, *, gateway: bool = True, **environment: str) -> AsyncIterator[House]:
    """Everything up but no node. `environment` is for the gateway."""
    async with nats_server(auth=True) as nats, database() as database_url:
        _, operator_token = await credentials.create(database_url, "operator", "test")
        common = {
            "DATABASE_URL": database_url,
            "NATS_URL": nats.url,
            "COMPUTEPOOL_STATE_DIR": str(nats.settings.state_dir),
            "COMPUTEPOOL_NATS_SEEDS_DIR": str(nats.settings.seeds_dir),
            "COMPUTEPOOL_GATEWAY_PORT": "0",
            "COMPUTEPOOL_MODEL_DIRS": json.dumps([str(TALES.parent)]),
        }
        built = House(directory, nats, database_url, common, operator_token)
        try:
            await built.start("orchestrator")
            await built.start("projector")
            if gateway:
                await built.start_gateway(**environment)
                await until(lambda: is_well(built, "orchestrator", "projector", "nats", "postgres"))
            yield built
        except BaseException:
            for service in built.services.values():
                print(service.name, service.process.returncode, service.log[-1500:])
            raise
        finally:
            for service in reversed(list(built.services.values())):
                with contextlib.suppress(TimeoutError):
                    await service.stop()


async def is_well(built: House, *parts: str) -> bool:
    async with built.client(None) as client:
        found = (await client.get("/readyz")).json()["parts"]
    return all(found[part]["ok"] for part in parts)


async def until(condition: Callable[[], Awaitable[bool]], within_s: float = DEADLINE_S) -> None:
    """Until the condition holds; asks again every 50 ms. Raises AssertionError."""
    deadline = time.monotonic() + within_s
    while not await condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{condition} did not come true within {within_s} s")
        await asyncio.sleep(0.05)


Script = Callable[["Peer", messages.Generate, messages.SealedContent], Coroutine[Any, Any, None]]


@dataclass
class Peer:
    """A node whose generations go by `script`. `generated`, `cancelled`: the commands it got."""

    house: House
    keys: NodeKeys
    directory: Path
    script: Script
    client: Client | None = None
    heartbeat: "asyncio.Task[None] | None" = None
    queue: "asyncio.Task[None] | None" = None
    pools: set[str] = field(default_factory=set)
    generated: list[tuple[messages.Generate, messages.SealedContent]] = field(default_factory=list)
    cancelled: list[messages.Cancel] = field(default_factory=list)
    running: set["asyncio.Task[None]"] = field(default_factory=set)

    @property
    def node_id(self) -> str:
        return self.keys.node_id

    @classmethod
    async def join(cls, house: House, name: str, script: Script) -> "Peer":
        """Registered, connected, measured and beating."""
        directory = house.directory / name
        await join(directory, name, house.url, house.operator_token)
        peer = cls(house, NodeKeys.load_or_make(directory), directory, script)
        await peer.connect()
        return peer

    async def connect(self) -> None:
        self.client = await bus.connect_with_seed(
            self.house.nats.url,
            self.keys.nats_seed.decode(),
            inbox=messages.inbox_prefix("worker", self.node_id),
            name=self.node_id,
            first_connect_s=10,
        )
        self.heartbeat = asyncio.create_task(self._beat())
        self.queue = asyncio.create_task(
            CommandQueue(self.client, self.node_id, self._handle, self._refuse).run()
        )
        measured = messages.CapabilitiesMeasured(
            os.urandom(8).hex(), self.node_id, 2**33, 10.0, "test peer", "0"
        )
        await self.report(measured)

    async def leave(self) -> None:
        """Gone without a word, as by SIGKILL."""
        tasks = [task for task in (self.heartbeat, self.queue, *self.running) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self.client is not None:
            await self.client.close()

    async def _beat(self) -> None:
        assert self.client is not None
        while True:
            alive = messages.Alive(
                self.node_id, time.time_ns() // 1_000_000, 0, len(self.running), tuple(self.pools)
            )
            await self.client.publish(messages.alive_subject(self.node_id), messages.encode(alive))
            await asyncio.sleep(0.2)

    async def report(self, report: messages.Report) -> None:
        assert self.client is not None
        subject = messages.report_subject(self.node_id, messages.kind_of(report))
        await self.client.request(subject, messages.encode(report), timeout=5)

    async def _refuse(self, command_id: str, code: str, stream_seq: int) -> None:
        raise AssertionError(f"a command was not understood: {code} at {stream_seq}")

    async def _handle(self, command: messages.Command, _: int) -> None:
        match command:
            case messages.LoadSlice():
                await self._load(command)
            case messages.Generate():
                seal = X25519PrivateKey.from_private_bytes(self.keys.seal.private_bytes_raw())
                content = sealing.open_sealed(seal, command.sealed, command.request_id)
                self.generated.append((command, content))
                task = asyncio.create_task(self.script(self, command, content))
                self.running.add(task)
                task.add_done_callback(self.running.discard)
            case messages.Cancel():
                self.cancelled.append(command)
            case messages.UnloadSlice():
                self.pools.discard(f"{command.pool_id}:{command.epoch}")

    async def _load(self, command: messages.LoadSlice) -> None:
        me = next(member for member in command.members if member.node_id == self.node_id)
        self.pools.add(f"{command.pool_id}:{command.epoch}")
        loaded = messages.SliceLoaded(
            f"{command.command_id}-loaded",
            self.node_id,
            command.pool_id,
            command.epoch,
            me.first_layer,
            me.end_layer,
            command.weights_digest,
            1,
            1,
        )
        await self.report(loaded)

    async def say(self, command: messages.Generate, index: int, text: str, **more: Any) -> None:
        """One message of tokens; `ids` default to one per word."""
        assert self.client is not None
        ids = more.pop("ids", tuple(range(len(text.split()))))
        tokens = messages.Tokens(command.request_id, command.epoch, index, ids, text, **more)
        subject = messages.tokens_subject(self.node_id, command.request_id)
        body = messages.encode(tokens)
        if tokens.finish_reason is None:
            await self.client.publish(subject, body)
            return
        with contextlib.suppress(Exception):
            answer = await self.client.request(subject, body, timeout=3)
            assert answer.data == b"ok"

    async def end(
        self,
        command: messages.Generate,
        content: messages.SealedContent,
        text: str,
        tokens: int,
        finish_reason: messages.FinishReason = "stop",
        error_code: str | None = None,
        signed: tuple[tuple[NodeReceipts, ...], Usage] | None = None,
    ) -> messages.GenerationEnded:
        """The last tokens message and the report, which is returned."""
        receipts, usage = signed or ((), None)
        prompt_tokens = len(content.prompt_ids)
        hops = (messages.HopTiming(self.node_id, 1.5, 0.5),)
        await self.say(
            command,
            tokens,
            "",
            finish_reason=finish_reason,
            error_code=error_code,
            prompt_tokens=prompt_tokens,
            completion_tokens=tokens,
            hops=hops,
            prefill_ms=12.5,
            decode_ms=40.0,
            receipts=receipts,
            usage=usage,
        )
        ended = messages.GenerationEnded(
            f"{command.request_id}-ended",
            self.node_id,
            command.pool_id,
            command.epoch,
            command.session_id,
            command.request_id,
            finish_reason,
            prompt_tokens,
            tokens,
            messages.commitment(content.nonce, text),
            1,
            1,
            error_code,
            receipts,
            usage,
        )
        await self.report(ended)
        return ended


async def form(built: House, peers: list[Peer], name: str, **terms: Any) -> str:
    """A pool over the peers that serves; its id."""
    body = {"name": name, "model": "tales", "weights_digest": DIGEST, "dtype": "float32", **terms}
    async with built.client() as client:
        for peer in peers:

            async def measured(node_id: str = peer.node_id) -> bool:
                found = await client.get(f"/nodes/{node_id}")
                return found.status_code == 200 and bool(found.json()["memory_bytes"])

            await until(measured)
        proposed = await client.post("/pools", json=body)
        assert proposed.status_code == 201, proposed.text
        pool_id = str(proposed.json()["pool_id"])
        for peer in peers:
            await accept(peer.directory, pool_id, built.url, built.operator_token)
        planned = await client.post(
            f"/pools/{pool_id}/plan", json={"node_ids": [peer.node_id for peer in peers]}
        )
        assert planned.status_code == 200, planned.text

        async def serves() -> bool:
            return bool((await client.get(f"/pools/{pool_id}")).json()["status"] == "active")

        await until(serves)
    return pool_id
