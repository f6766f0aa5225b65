"""What the gateway holds while it runs: connections, counters and the moment it started to stop; knows no
route.
"""

import asyncio
import time
from dataclasses import dataclass, field

from nats.aio.client import Client
from sqlalchemy.ext.asyncio import AsyncEngine

from services import bus
from services.blobs import Blobs
from services.credentials import Credentials
from services.gateway.heartbeats import Heartbeats
from services.gateway.idempotency import Idempotency
from services.gateway.metrics import Metrics
from services.gateway.routing import Routing
from services.gateway.slots import Slots
from services.gateway.templates import Templates
from services.gateway.till import Till
from services.keeper.hook_secret import HookSecret
from services.keeper.inbox import Inbox
from services.log import EventLog
from services.readmodel import ReadModel
from services.settings import Settings


@dataclass
class Gateway:
    """One per application. `stopping` is set once, when the process was asked to end."""

    settings: Settings
    client: Client
    events: EventLog
    rows: ReadModel
    engine: AsyncEngine
    credentials: Credentials
    idempotency: Idempotency
    heartbeats: Heartbeats
    templates: Templates
    routing: Routing
    metrics: Metrics
    slots: Slots
    till: Till
    blobs: Blobs
    hooks: HookSecret
    inbox: Inbox
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    feeds: int = 0

    async def close(self) -> None:
        self.stopping.set()
        await self.till.close()
        await self.rows.close()
        await self.engine.dispose()
        await bus.close(self.client)


def now_ms() -> int:
    return time.time_ns() // 1_000_000
