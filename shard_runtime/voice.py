"""How a worker speaks: reports that must arrive, tokens and heartbeats that may not.

Knows nothing of their causes.
"""

import asyncio
import uuid

import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError

from shard_runtime.messages import (
    Alive,
    Report,
    Tokens,
    alive_subject,
    encode,
    kind_of,
    report_subject,
    tokens_subject,
)

FINAL_WAIT_S = 3.0
TRY_WAIT_S = 0.5

log = structlog.get_logger()


def report_id(*parts: str) -> str:
    """The same for the same parts, so that a report said twice is stored once."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, "/".join(parts)))


class Voice:
    """One node's publishing on NATS."""

    def __init__(self, nc: Client, node_id: str) -> None:
        self._nc, self._js, self._node_id = nc, nc.jetstream(), node_id

    async def report(self, report: Report) -> None:
        """Returns when JetStream has stored it; tries until then."""
        subject, body = report_subject(self._node_id, kind_of(report)), encode(report)
        pause_s = 0.1
        while True:
            try:
                await self._js.publish(subject, body, headers={"Nats-Msg-Id": report.report_id}, timeout=5)
                return
            except (NatsError, TimeoutError) as failure:
                log.warning("report_not_stored", kind=kind_of(report), error=repr(failure))
                await asyncio.sleep(pause_s)
                pause_s = min(5.0, 2 * pause_s)

    async def tokens(self, tokens: Tokens) -> None:
        await self._nc.publish(tokens_subject(self._node_id, tokens.request_id), encode(tokens))

    async def last_tokens(self, tokens: Tokens) -> bool:
        """Say the end until somebody answers "ok" or three seconds have passed; whether somebody did."""
        subject, body = tokens_subject(self._node_id, tokens.request_id), encode(tokens)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + FINAL_WAIT_S
        while (left_s := deadline - loop.time()) > 0:
            try:
                answer = await self._nc.request(subject, body, timeout=min(TRY_WAIT_S, left_s))
                if answer.data == b"ok":
                    return True
            except (NatsError, TimeoutError):
                await asyncio.sleep(min(0.2, max(0.0, deadline - loop.time())))
        return False

    async def alive(self, alive: Alive) -> None:
        await self._nc.publish(alive_subject(self._node_id), encode(alive))
