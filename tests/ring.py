"""Real rings for tests: nats-server with the real permissions, mesh nodes and worker processes, on loopback.

Knows nothing of the gateway, the event log or Postgres: it speaks the worker's own contract.
"""

import asyncio
import contextlib
import secrets
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import RetentionPolicy, StreamConfig
from ulid import ULID

from services import dispatch
from services.access import NatsAccess
from services.chaos.gate import Gate, gate
from shard_runtime.messages import (
    COMMANDS_STREAM,
    REPORTS_STREAM,
    Alive,
    Cancel,
    Dtype,
    Generate,
    GenerationEnded,
    LoadSlice,
    PlanMember,
    Report,
    Sampling,
    SealedContent,
    SliceFailed,
    SliceLoaded,
    Tokens,
    UnloadSlice,
    command_consumer,
    command_subject,
    decode_report,
    encode,
    inbox_prefix,
    kind_of,
)
from shard_runtime.receipts import Terms
from shard_runtime.sealing import seal_for
from shard_runtime.weights import manifest_of
from tests.mesh_nodes import MeshNode, mesh
from tests.outcome import Outcome
from tests.worker_process import WorkerProcess, make_worker

R = TypeVar("R")


def new_id() -> str:
    return str(ULID()).lower()


@dataclass
class Ring:
    """A running set of workers. `reports` is all they have said, oldest first."""

    nodes: list[MeshNode]
    """The workers' mesh nodes, then `strangers` without a worker."""
    workers: list[WorkerProcess]
    orchestrator: Client
    gateway: Client
    gates: list[Gate] = field(default_factory=list)
    """One before each worker's mesh node, in a gated ring."""
    reports: list[Report] = field(default_factory=list)
    alive: dict[str, Alive] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    answer_ends: bool = True
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)
    _digests: dict[Path, str] = field(default_factory=dict)
    _epochs: dict[str, int] = field(default_factory=dict)

    async def until(self, what: str, holds: Callable[[], R], deadline_s: float = 30.0) -> R:
        """Wait until `holds()` is true; checked whenever a report, a heartbeat or a token comes."""
        try:
            async with asyncio.timeout(deadline_s), self._news:
                while not (value := holds()):
                    await self._news.wait()
                return value
        except TimeoutError:
            logs = "\n".join(worker.log_text()[-1500:] for worker in self.workers)
            raise AssertionError(f"not within {deadline_s} s: {what}\n{logs}") from None

    def said(self, kind: type[R], **fields: object) -> list[R]:
        """Reports of one kind whose fields are as given."""
        chosen = [report for report in self.reports if isinstance(report, kind)]
        return [report for report in chosen if all(getattr(report, k) == v for k, v in fields.items())]

    async def load(
        self,
        model_dir: Path,
        cuts: Sequence[int],
        *,
        dtype: Dtype = "float32",
        max_context: int = 256,
        kv_slots: int = 8,
        pool_id: str | None = None,
        epoch: int = 1,
        digest: str | None = None,
        may_fail: bool = False,
    ) -> str:
        """Make a ring of `len(cuts)` workers; `cuts` are the ends of their layer ranges. The pool's id."""
        pool_id = pool_id or new_id()
        chosen = self.workers[: len(cuts)]
        await self.send_load(
            model_dir, cuts, dtype=dtype, max_context=max_context, kv_slots=kv_slots, pool_id=pool_id,
            epoch=epoch, digest=digest,
        )  # fmt: skip

        def settled() -> bool:
            loaded = {report.node_id for report in self.said(SliceLoaded, pool_id=pool_id, epoch=epoch)}
            failed = {report.node_id for report in self.said(SliceFailed, pool_id=pool_id, epoch=epoch)}
            return len(loaded | failed) == len(chosen)

        await self.until(f"{len(cuts)} slices loaded", settled, 60)
        failed = self.said(SliceFailed, pool_id=pool_id, epoch=epoch)
        assert may_fail or not failed, failed
        return pool_id

    async def send_load(
        self,
        model_dir: Path,
        cuts: Sequence[int],
        *,
        pool_id: str,
        dtype: Dtype = "float32",
        max_context: int = 256,
        kv_slots: int = 8,
        epoch: int = 1,
        digest: str | None = None,
    ) -> None:
        """As `load`, without waiting for what becomes of it."""
        chosen = self.workers[: len(cuts)]
        if digest is None and model_dir not in self._digests:
            self._digests[model_dir] = await asyncio.to_thread(lambda: manifest_of(model_dir).digest)
        starts = [0, *cuts[:-1]]
        members = tuple(
            PlanMember(worker.node_id, worker.mesh_node.peer_id, worker.receipt_key.address, first, end)
            for worker, first, end in zip(chosen, starts, cuts, strict=True)
        )
        self._epochs[pool_id] = epoch
        for worker in chosen:
            command = LoadSlice(
                new_id(), pool_id, epoch, str(model_dir), digest or self._digests[model_dir], dtype, members,
                max_context, kv_slots,
            )  # fmt: skip
            await dispatch.send(self.orchestrator, worker.node_id, command)

    def at_epoch(self, pool_id: str, epoch: int) -> None:
        """Commands of this pool carry this epoch from now on."""
        self._epochs[pool_id] = epoch

    async def unload(self, pool_id: str) -> None:
        for worker in self.workers:
            command = UnloadSlice(new_id(), pool_id, self._epochs[pool_id])
            await dispatch.send(self.orchestrator, worker.node_id, command)
        held = f"{pool_id}:{self._epochs[pool_id]}"
        await self.until("unloaded", lambda: not any(held in alive.pools for alive in self.alive.values()))

    def command(
        self,
        pool_id: str,
        prompt_ids: Sequence[int],
        *,
        max_tokens: int = 16,
        sampling: Sampling | None = None,
        stop: tuple[str, ...] = (),
        resume_ids: tuple[int, ...] = (),
        entry: int = 0,
        deadline_s: float = 120.0,
        request_id: str | None = None,
        terms: Terms | None = None,
    ) -> Generate:
        request_id = request_id or new_id()
        nonce = secrets.token_hex(32)
        self.outcomes[request_id] = Outcome(request_id, list(resume_ids), nonce=nonce)
        content = SealedContent(tuple(prompt_ids), nonce, stop, resume_ids)
        sealed = seal_for(self.workers[entry].seal_public, content, request_id)
        return Generate(
            new_id(), pool_id, self._epochs.get(pool_id, 1), new_id(), request_id, sealed,
            sampling or Sampling(seed=0), max_tokens, int((time.time() + deadline_s) * 1000), terms,
        )  # fmt: skip

    async def ask(self, command: Generate, *, entry: int = 0) -> Outcome:
        """Send a `Generate`; the outcome fills as tokens come."""
        outcome = self.outcomes[command.request_id]
        outcome.asked_s = time.monotonic()
        subject = command_subject(self.workers[entry].node_id, kind_of(command))
        await self.gateway.jetstream().publish(subject, encode(command))
        return outcome

    async def generate(
        self, pool_id: str, prompt_ids: Sequence[int], *, entry: int = 0, **options: Any
    ) -> Outcome:
        """One request from asking to its end."""
        command = self.command(pool_id, prompt_ids, entry=entry, **options)
        outcome = await self.ask(command, entry=entry)
        await self.ended(outcome)
        return outcome

    async def ended(self, outcome: Outcome, deadline_s: float = 60.0) -> GenerationEnded:
        """Wait for the last message and for the report; the report."""
        await self.until("the last token", outcome.over.is_set, deadline_s)
        assert not outcome.faults
        found = await self.until(
            "GenerationEnded", lambda: self.said(GenerationEnded, request_id=outcome.request_id), deadline_s
        )
        return found[0]

    async def cancel(self, pool_id: str, request_id: str, entry: int = 0, reason: str = "test") -> None:
        command = Cancel(new_id(), pool_id, self._epochs[pool_id], request_id, reason)
        subject = command_subject(self.workers[entry].node_id, kind_of(command))
        await self.gateway.jetstream().publish(subject, encode(command))

    async def queues_empty(self, deadline_s: float = 30.0) -> None:
        """Wait until every command that was sent has been acknowledged or taken off."""
        deadline = time.monotonic() + deadline_s
        for worker in self.workers:
            while True:
                info = await self.orchestrator.jetstream().consumer_info(
                    COMMANDS_STREAM, command_consumer(worker.node_id)
                )
                if not info.num_pending and not info.num_ack_pending:
                    break
                done = f"commands of {worker.node_id} are not done: {info}\n{worker.log_text()[-2500:]}"
                assert time.monotonic() < deadline, done
                await asyncio.sleep(0.05)

    async def kv_free(self) -> None:
        """Wait for a heartbeat of every worker, sent after now, that holds no KV."""
        now_ms = time.time_ns() // 1_000_000
        processes = [(worker.node_id, worker.process) for worker in self.workers]
        running = [node_id for node_id, process in processes if process and process.returncode is None]

        def free() -> bool:
            beats = [self.alive.get(node_id) for node_id in running]
            return all(b is not None and b.sent_unix_ms > now_ms and b.kv_slots_used == 0 for b in beats)

        await self.until("all KV slots are free", free)

    async def heard_tokens(self, msg: Msg) -> None:
        tokens = msgspec.json.decode(msg.data, type=Tokens)
        outcome = self.outcomes.get(tokens.request_id)
        if outcome is not None:
            outcome.hear(tokens)
        if msg.reply and self.answer_ends:
            await msg.respond(b"ok")
        await self._wake()

    async def heard_alive(self, msg: Msg) -> None:
        alive = msgspec.json.decode(msg.data, type=Alive)
        self.alive[alive.node_id] = alive
        await self._wake()

    async def listen(self) -> None:
        """Take the workers' reports for ever."""
        await self.orchestrator.jetstream().add_consumer(
            REPORTS_STREAM, durable_name="orchestrator", ack_policy="explicit"
        )
        pull = await self.orchestrator.jetstream().pull_subscribe_bind("orchestrator", stream=REPORTS_STREAM)
        while True:
            try:
                batch = await pull.fetch(64, timeout=5)
            except TimeoutError:
                continue
            for msg in batch:
                self.reports.append(decode_report(msg.data))
                await msg.ack()
            await self._wake()

    async def _wake(self) -> None:
        async with self._news:
            self._news.notify_all()


@contextlib.asynccontextmanager
async def ring(
    n: int,
    *,
    strangers: int = 0,
    ack_wait_s: float = 30.0,
    mesh_options: dict[str, Any] | None = None,
    worker_options: dict[str, Any] | None = None,
    home: Path | None = None,
    gated: bool = False,
    lies: dict[int, str] | None = None,
) -> AsyncIterator[Ring]:
    """nats-server, `n` mesh nodes and `n` workers; everything is stopped afterwards.

    `gated`: a gate between each worker and its mesh node, for trouble on purpose. `lies`: by worker number.
    """
    async with contextlib.AsyncExitStack() as stack:
        if home is None:
            home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ring-")))
        port = free_port()
        url = f"nats://127.0.0.1:{port}"
        access = NatsAccess(home / "nats", home / "seeds", url)
        nodes = await stack.enter_async_context(mesh(n + strangers, **(mesh_options or {})))
        gates = [
            await stack.enter_async_context(gate(node.api_url, seed=number))
            for number, node in enumerate(nodes[: n if gated else 0])
        ]
        workers = [
            make_worker(home / f"worker{number}", node, url, access, worker_options or {})
            for number, node in enumerate(nodes[:n])
        ]
        for number, lie in (lies or {}).items():
            workers[number].lie = lie
        for worker, before in zip(workers, gates, strict=False):
            worker.config["axl_url"] = before.url
        conf = access.write(port=port)
        server = await _nats_server(conf, home / "nats.log")
        stack.push_async_callback(_end, server)
        admin = await _connect(url, access, "admin")
        for name, subjects, retention in (
            (COMMANDS_STREAM, ["cp.commands.>"], RetentionPolicy.WORK_QUEUE),
            (REPORTS_STREAM, ["cp.reports.>"], RetentionPolicy.LIMITS),
        ):
            config = StreamConfig(name=name, subjects=subjects, retention=retention)
            await admin.jetstream().add_stream(config)
        await admin.close()
        orchestrator = await _connect(url, access, "orchestrator")
        stack.push_async_callback(orchestrator.close)
        gateway = await _connect(url, access, "gateway")
        stack.push_async_callback(gateway.close)
        running = Ring(nodes, workers, orchestrator, gateway, gates)
        await gateway.subscribe("cp.tokens.*.*", cb=running.heard_tokens)
        await gateway.subscribe("cp.alive.*", cb=running.heard_alive)
        listening = asyncio.create_task(running.listen())
        stack.push_async_callback(_cancel, listening)
        for worker in workers:
            await dispatch.open_queue(orchestrator, worker.node_id)
            name = command_consumer(worker.node_id)
            queue = (await orchestrator.jetstream().consumer_info(COMMANDS_STREAM, name)).config
            queue.ack_wait = ack_wait_s
            await orchestrator.jetstream().add_consumer(COMMANDS_STREAM, queue)
            await worker.start()
            stack.push_async_callback(worker.stop)
        up = asyncio.create_task(running.until("all workers alive", lambda: len(running.alive) == n, 90))
        ends = [asyncio.create_task(worker.process.wait()) for worker in workers if worker.process]
        await asyncio.wait({up, *ends}, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
        if not up.done():
            up.cancel()
            raise AssertionError("a worker ended:\n" + "\n".join(w.log_text()[-1500:] for w in workers))
        await up
        yield running


async def _nats_server(conf: Path, log: Path) -> asyncio.subprocess.Process:
    binary = Path(sys.executable).parent / "nats-server"
    with log.open("ab") as file:
        return await asyncio.create_subprocess_exec(
            str(binary), "-c", str(conf), stdout=file, stderr=file, start_new_session=True
        )


async def _connect(url: str, access: NatsAccess, role: str) -> Client:
    async with asyncio.timeout(20):
        while True:
            try:
                return await nats.connect(
                    url, nkeys_seed=str(access.seed_path(role)), inbox_prefix=inbox_prefix(role, role),
                    allow_reconnect=True, connect_timeout=2, error_cb=_quiet,
                )  # fmt: skip
            except (OSError, nats.errors.Error):
                await asyncio.sleep(0.05)


async def _quiet(_: Exception) -> None:
    return None


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _end(server: asyncio.subprocess.Process) -> None:
    server.terminate()
    await server.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
