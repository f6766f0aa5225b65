"""Which node said when that it is alive, and which slices it serves; knows nothing of HTTP or of the log."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import msgspec
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg

from events.policies import LOST_AFTER_MS
from shard_runtime.messages import Alive, alive_subject

log = structlog.get_logger("gateway")
SILENT_AFTER_S = LOST_AFTER_MS / 1000
_decoder = msgspec.json.Decoder(Alive)


@dataclass
class Heartbeats:
    """Times are of a monotonic clock in seconds. A node never heard counts from when this observer
    started.
    """

    clock: Callable[[], float] = time.monotonic
    last: dict[str, tuple[float, Alive]] = field(default_factory=dict)
    started: float = -1.0

    def __post_init__(self) -> None:
        self.started = self.clock()

    async def listen(self, client: Client) -> None:
        async def heard(message: Msg) -> None:
            try:
                self.hear(message.subject.rsplit(".", 1)[1], _decoder.decode(message.data))
            except msgspec.DecodeError as broken:
                log.warning("heartbeat_dropped", subject=message.subject, why=str(broken))

        await client.subscribe(alive_subject("*"), cb=heard)

    def hear(self, node_id: str, alive: Alive) -> None:
        """A heartbeat counts only for the node on whose subject it came."""
        if alive.node_id == node_id:
            self.last[node_id] = (self.clock(), alive)

    def silent_s(self, node_id: str) -> float:
        """Seconds since the node's last heartbeat."""
        return self.clock() - (self.last[node_id][0] if node_id in self.last else self.started)

    def silent(self, node_ids: Iterable[str]) -> str | None:
        """The first of these nodes that has been silent for too long, if one has."""
        return next((node_id for node_id in node_ids if self.silent_s(node_id) > SILENT_AFTER_S), None)

    def latest(self, node_id: str) -> Alive | None:
        """What the node said last, when that is recent enough."""
        if node_id not in self.last or self.silent_s(node_id) > SILENT_AFTER_S:
            return None
        return self.last[node_id][1]

    def serves(self, node_id: str, pool_id: str, epoch: int) -> bool:
        """Whether the node's latest heartbeat, recent enough, names this slice."""
        alive = self.latest(node_id)
        return alive is not None and f"{pool_id}:{epoch}" in alive.pools

    def kv_slots_used(self) -> int:
        """Slots in use over all nodes heard of."""
        return sum(alive.kv_slots_used for _, alive in self.last.values())
