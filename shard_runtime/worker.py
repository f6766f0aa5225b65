"""The worker process: `python -m shard_runtime.worker --config worker.json`.

Wires NATS, the mesh node and the compute thread together. Knows nothing of pools' money, Postgres or HTTP; it
only dials out and listens on no port.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import nats
import structlog
import torch
import uvloop
from nats.aio.client import Client
from nats.aio.msg import Msg

from shard_runtime.answering import end_early, say_moved
from shard_runtime.axl import Axl, MeshUnreachable
from shard_runtime.commands import CommandImpossible, CommandQueue
from shard_runtime.compute import ComputeThread
from shard_runtime.journal import Journal
from shard_runtime.messages import (
    HEARTBEAT_SECONDS,
    Adopt,
    Alive,
    Cancel,
    CapabilitiesMeasured,
    Command,
    CommandRefused,
    Drain,
    Generate,
    LoadSlice,
    NodeStopping,
    SealedContent,
    SliceDrained,
    SliceFailed,
    SliceLoaded,
    UnloadSlice,
    inbox_prefix,
)
from shard_runtime.places import Place, Places, Surroundings
from shard_runtime.probes import answer_to, probe_subject
from shard_runtime.receipt_book import ReceiptBook
from shard_runtime.sealing import open_sealed
from shard_runtime.stage import LOST, code_of
from shard_runtime.voice import Voice, report_id
from shard_runtime.worker_config import (
    ConfigInvalid,
    WorkerConfig,
    read_config,
    read_receipt_key,
    read_seal_key,
)

TICK_S = 0.02

log = structlog.get_logger()


class Worker:
    """One node's runtime, from connecting to the last report."""

    def __init__(self, config: WorkerConfig, nc: Client, axl: Axl, compute: ComputeThread) -> None:
        self._config, self._nc, self._axl, self._compute = config, nc, axl, compute
        self._node_id = config.node_id
        self._seal_key = read_seal_key(Path(config.seal_key_file))
        self._receipt_key = read_receipt_key(Path(config.receipt_key_file))
        self._journal = Journal(Path(config.state_dir))
        self._book = ReceiptBook(Path(config.state_dir), self._receipt_key)
        self._voice = Voice(nc, self._node_id)
        self._restored = asyncio.Event()
        self.places = Places(
            Surroundings(
                self._node_id, tuple(Path(directory) for directory in config.model_dirs), config.allow_hub,
                config.kv_slots, int(config.stall_seconds * 1e9), axl, compute, self._voice, self._journal,
                self._open, self._receipt_key, self._book,
            )
        )  # fmt: skip
        self._queue = CommandQueue(nc, self._node_id, self._handle, self._refuse)

    async def run(self, stopping: asyncio.Event) -> None:
        """Until `stopping` is set; then running requests get `drain_seconds`."""
        await self._voice.report(await self._measure())
        await self._nc.subscribe(probe_subject(self._node_id), cb=self._answer_probe)
        tasks = [
            asyncio.create_task(self._axl.run(self.places.take, self.places.expecting), name="mesh"),
            asyncio.create_task(self._tick(), name="tick"),
            asyncio.create_task(self._heartbeat(), name="heartbeat"),
            asyncio.create_task(self._restore(), name="restore"),
        ]
        pulling = asyncio.create_task(self._queue.run(), name="commands")
        waiting = asyncio.create_task(stopping.wait())
        done, _ = await asyncio.wait({*tasks[:3], pulling, waiting}, return_when=asyncio.FIRST_COMPLETED)
        failed = [task for task in done if task is not waiting]
        reason = "stopped" if not failed else f"{failed[0].get_name()} failed"
        pulling.cancel()
        await asyncio.gather(pulling, return_exceptions=True)
        if not failed:
            await self._drain()
        self.places.leave_all()
        await self._let_requests_end()
        await self._axl.drain(2.0)
        await self._queue.stop()
        for task in (*tasks, waiting):
            task.cancel()
        await asyncio.gather(*tasks, waiting, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            stopped = NodeStopping(str(uuid.uuid4()), self._node_id, reason)
            await asyncio.wait_for(self._voice.report(stopped), 3)
        self._journal.close()
        self._book.close()
        for task in failed:
            task.result()

    # Commands

    async def _handle(self, command: Command, sequence: int) -> None:
        match command:
            case LoadSlice():
                await self._load(command)
            case UnloadSlice():
                await self.places.unload(command.pool_id, command.epoch)
            case Generate():
                await self._generate(command)
            case Drain():
                await self._leave_epoch(command)
            case Adopt():
                await self._restored.wait()
                await self.places.adopt(command)
            case Cancel():
                place = await self._place(command.pool_id, command.epoch)
                if place is not None and place.answering is not None:
                    place.answering.cancel(command.request_id, command.reason)

    async def _refuse(self, command_id: str, code: str, sequence: int) -> None:
        said = report_id("command_refused", self._node_id, str(sequence))
        await self._voice.report(CommandRefused(said, self._node_id, command_id, code, sequence))

    async def _load(self, command: LoadSlice) -> None:
        if command.kv_slots < 1 or command.max_context < 2:
            raise CommandImpossible("malformed")
        try:
            place = await self.places.load(command)
        except Exception as failure:
            code = str(getattr(failure, "code", "load_failed"))
            pool_id, epoch = command.pool_id, command.epoch
            log.error("slice_failed", pool_id=pool_id, epoch=epoch, code=code, detail=str(failure))
            await self._voice.report(
                SliceFailed(
                    str(uuid.uuid4()), self._node_id, command.pool_id, command.epoch, code, str(failure)[:500]
                )
            )
            return
        if place is not None:
            await self._announce(place)

    async def _announce(self, place: Place) -> None:
        command, slice_ = place.command, place.stage.slice
        log.info(
            "slice_loaded", pool_id=command.pool_id, epoch=command.epoch, first_layer=slice_.first_layer,
            end_layer=slice_.end_layer, slice_bytes=slice_.slice_bytes, load_ms=place.load_ms,
            weights_digest=command.weights_digest, kept=place.kept,
        )  # fmt: skip
        await self._voice.report(
            SliceLoaded(
                str(uuid.uuid4()), self._node_id, command.pool_id, command.epoch, slice_.first_layer,
                slice_.end_layer, command.weights_digest, slice_.slice_bytes, place.load_ms,
            )
        )  # fmt: skip

    async def _generate(self, command: Generate) -> None:
        place = await self._place(command.pool_id, command.epoch)
        running = place is not None and place.answering is not None and place.answering.knows(command)
        ended = self._journal.end_of(command.command_id)
        if ended is not None and not running:
            await self._voice.report(ended)  # stored once, by its report id
            return
        if self._journal.began(command.command_id) and not running:
            if place is not None:
                place.stage.end(command.request_id)  # the other stages may still hold its KV
            await end_early(self._voice, self._journal, self._node_id, command, LOST)
            return
        left_for = self.places.left_for(command.pool_id, command.epoch)
        if place is not None and place.answering is not None:
            await place.answering.generate(command)
        elif left_for is not None:
            await say_moved(self._voice, command, left_for)
        else:
            elsewhere = place is None and self.places.newest(command.pool_id) is not None
            code = "wrong_epoch" if elsewhere else "slice_not_loaded"
            await end_early(self._voice, self._journal, self._node_id, command, code)

    async def _leave_epoch(self, command: Drain) -> None:
        await self._restored.wait()
        drained = await self.places.drain(command)
        log.info(
            "slice_drained", pool_id=command.pool_id, epoch=command.epoch, to_epoch=command.to_epoch,
            moved_requests=drained.moved_requests, kv_bytes=drained.kv_bytes,
        )  # fmt: skip
        await self._voice.report(
            SliceDrained(
                report_id("slice_drained", command.command_id), self._node_id, command.pool_id, command.epoch,
                drained.moved_requests, drained.kv_bytes,
            )
        )  # fmt: skip

    async def _place(self, pool_id: str, epoch: int) -> Place | None:
        await self._restored.wait()
        return await self.places.ready(pool_id, epoch)

    def _open(self, command: Generate) -> SealedContent:
        return open_sealed(self._seal_key, command.sealed, command.request_id)

    # From start to stop

    async def _restore(self) -> None:
        """Load again what was loaded before the restart."""
        try:
            loads = [asyncio.create_task(self._load(command)) for command in self._journal.slices()]
            await asyncio.sleep(0)
        finally:
            self._restored.set()
        await asyncio.gather(*loads, return_exceptions=True)

    async def _measure(self) -> CapabilitiesMeasured:
        def gflops() -> float:
            size, rounds = 512, 8
            left = torch.rand(size, size)
            left @ left
            begun = time.perf_counter()
            for _ in range(rounds):
                left @ left
            return round(2 * size**3 * rounds / (time.perf_counter() - begun) / 1e9, 2)

        memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        try:
            runtime = version("computepool")
        except PackageNotFoundError:
            runtime = "0"
        speed = await self._compute.call(gflops)
        return CapabilitiesMeasured(str(uuid.uuid4()), self._node_id, memory_bytes, speed, "cpu", runtime)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.places.tick()

    async def _heartbeat(self) -> None:
        while True:
            places = self.places.all()
            await self._voice.alive(
                Alive(
                    self._node_id, time.time_ns() // 1_000_000, self._active(),
                    self.places.kv_used,
                    tuple(f"{place.command.pool_id}:{place.command.epoch}" for place in places),
                )
            )  # fmt: skip
            await asyncio.sleep(HEARTBEAT_SECONDS)

    async def _answer_probe(self, asked: Msg) -> None:
        answer = answer_to(asked.data, self._node_id, self._receipt_key)
        if answer is not None and asked.reply:
            await asked.respond(answer)

    def _active(self) -> int:
        return sum(place.answering.active for place in self.places.all() if place.answering is not None)

    async def _drain(self) -> None:
        deadline = time.monotonic() + self._config.drain_seconds
        while self._active() and time.monotonic() < deadline:
            await asyncio.sleep(TICK_S)

    async def _let_requests_end(self) -> None:
        deadline = time.monotonic() + 5.0
        while self._active() and time.monotonic() < deadline:
            await asyncio.sleep(TICK_S)
        for place in self.places.all():
            stage = place.stage
            log.info(
                "frames", pool_id=place.command.pool_id, open_requests=stage.requests,
                quiet=stage.delivery.quiet, **stage.delivery.count,
            )  # fmt: skip
        log.info("mesh", **self._axl.count, **{f"rejected_{why}": n for why, n in self.places.count.items()})


async def connect(config: WorkerConfig, stopping: asyncio.Event) -> Client:
    """NATS by nkey, with an inbox of our own; waits for the server, and reconnects for ever."""
    inbox = inbox_prefix("worker", config.node_id)
    told = False
    while not stopping.is_set():
        try:
            return await nats.connect(
                config.nats_url, nkeys_seed=config.nats_seed_file, inbox_prefix=inbox, name=config.node_id,
                max_reconnect_attempts=-1, reconnect_time_wait=0.2, allow_reconnect=True, connect_timeout=5,
                error_cb=_nats_error, disconnected_cb=_logged("nats_disconnected"),
                reconnected_cb=_logged("nats_reconnected"),
            )  # fmt: skip
        except (OSError, nats.errors.Error, TimeoutError) as failure:
            if not told:
                log.warning("nats_unreachable", error=repr(failure))
            told = True
            await asyncio.sleep(0.5)
    raise asyncio.CancelledError


async def _nats_error(failure: Exception) -> None:
    log.warning("nats_error", error=repr(failure))


def _logged(event: str) -> Callable[[], object]:
    async def say() -> None:
        log.info(event)

    return say


async def serve(config: WorkerConfig) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    axl = Axl(config.axl_url, config.axl_token)
    compute = ComputeThread(loop)
    nc = None
    try:
        await axl.start()
        nc = await connect(config, stopping)
        log.info("worker_started", node_id=config.node_id, mesh_key=axl.peer_id, recv_waits=axl.waits)
        await Worker(config, nc, axl, compute).run(stopping)
    finally:
        await axl.close()
        compute.close()
        if nc is not None:
            with contextlib.suppress(Exception):
                await nc.flush(2)
            with contextlib.suppress(Exception):
                await asyncio.wait_for(nc.close(), 2)
    log.info("worker_stopped", node_id=config.node_id)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    arguments = parser.parse_args()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    torch.set_num_threads(1)
    try:
        config = read_config(arguments.config)
        uvloop.run(serve(config))
    except (ConfigInvalid, MeshUnreachable) as failure:
        log.error("worker_failed", code=code_of(failure), detail=str(failure))
        sys.exit(2)
    except asyncio.CancelledError:
        sys.exit(0)
    # All is closed and on disk; unloading torch would take 1.5 s more, 11 s on a machine short of memory.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
