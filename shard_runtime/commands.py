"""A node's command queue: pulls its own durable consumer with nothing but the right to NEXT and ACK it.

Knows nothing of what a command does: the handler says when its effect is durable.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress

import msgspec
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg

from shard_runtime.messages import COMMANDS_STREAM, Command, command_consumer, decode_command

BATCH = 32
EXPIRES_S = 5.0
PROGRESS_S = 5.0
"""Well below the consumer's acknowledgement time, 30 s."""
MAX_COMMAND_BYTES = 1024 * 1024

log = structlog.get_logger()

Handle = Callable[[Command, int], Awaitable[None]]
"""Returns when the effect is durable or the command obsolete; CommandImpossible has it taken off."""
Refuse = Callable[[str, str, int], Awaitable[None]]
"""(command id or "", code, stream sequence)"""


class CommandImpossible(Exception):
    """A command that can never be carried out here; `code` says why, and it is taken off the queue."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class CommandQueue:
    """At least once: a command is acknowledged after `handle` returned, and kept alive while it runs."""

    def __init__(self, nc: Client, node_id: str, handle: Handle, refuse: Refuse) -> None:
        self._nc, self._handle, self._refuse = nc, handle, refuse
        self._consumer = command_consumer(node_id)
        self._running: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Pull and handle for ever; waits for the consumer when the orchestrator has not made it yet."""
        inbox = self._nc.new_inbox()
        subscription = await self._nc.subscribe(inbox)
        next_subject = f"$JS.API.CONSUMER.MSG.NEXT.{COMMANDS_STREAM}.{self._consumer}"
        ask = json.dumps({"batch": BATCH, "expires": int(EXPIRES_S * 1e9)}).encode()
        missing = False
        try:
            while True:
                await self._nc.publish(next_subject, ask, reply=inbox)
                status = await self._take(subscription, missing)
                if status in ("404", "408", "409", ""):
                    missing = False
                    continue
                if not missing:
                    log.info("waiting_for_command_consumer", consumer=self._consumer, status=status)
                missing = True
                await asyncio.sleep(0.3)
        finally:
            with suppress(Exception):
                await subscription.unsubscribe()

    async def stop(self) -> None:
        """Leave unfinished commands to be delivered again."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _take(self, subscription: object, missing: bool) -> str:
        """Handle one pull's messages; the status that ended it, "" when the batch is full or silence fell."""
        for _ in range(BATCH):
            try:
                msg: Msg = await subscription.next_msg(timeout=1.0 if missing else EXPIRES_S + 5)  # type: ignore[attr-defined]
            except TimeoutError:
                return "silence" if missing else ""
            status = (msg.headers or {}).get("Status")
            if status is not None:
                return str(status)
            missing = False
            self._begin(msg)
        return ""

    def _begin(self, msg: Msg) -> None:
        task = asyncio.create_task(self._one(msg))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _one(self, msg: Msg) -> None:
        sequence = _stream_sequence(msg)
        try:
            if len(msg.data) > MAX_COMMAND_BYTES:
                raise CommandImpossible("too_long")
            command = decode_command(msg.data)
        except (msgspec.ValidationError, msgspec.DecodeError, CommandImpossible) as bad:
            code = bad.code if isinstance(bad, CommandImpossible) else "malformed"
            await self._take_off(msg, "", code, sequence)
            return
        progress = asyncio.create_task(self._still_working(msg))
        try:
            await self._handle(command, sequence)
        except CommandImpossible as impossible:
            await self._take_off(msg, command.command_id, impossible.code, sequence)
        except Exception:
            log.exception("command_failed", command_id=command.command_id)
            await self._nc.publish(msg.reply, b'-NAK {"delay": 2000000000}')
        else:
            await self._nc.publish(msg.reply, b"+ACK")
        finally:
            progress.cancel()

    async def _take_off(self, msg: Msg, command_id: str, code: str, sequence: int) -> None:
        log.warning("command_refused", command_id=command_id, code=code, stream_seq=sequence)
        await self._refuse(command_id, code, sequence)
        await self._nc.publish(msg.reply, b"+TERM")

    async def _still_working(self, msg: Msg) -> None:
        while True:
            await asyncio.sleep(PROGRESS_S)
            await self._nc.publish(msg.reply, b"+WPI")


def _stream_sequence(msg: Msg) -> int:
    """From `$JS.ACK.[domain.account.]<stream>.<consumer>.<tries>.<seq>.<consumer seq>.<ns>.<pending>`."""
    tokens = msg.reply.split(".")
    with suppress(IndexError, ValueError):
        return int(tokens[5] if len(tokens) == 9 else tokens[7])
    return 0
