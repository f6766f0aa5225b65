"""From a model's name to the ring that serves it now; knows nothing of prompts or of who asks.

The read model tells which pool has the name; what the pool is now (its epoch, its ring) is folded from
the log, so that a lagging projector never sends a request to a ring of the past.
"""

from dataclasses import dataclass, field
from typing import Any

from events import node, pool
from services.gateway.refusals import ModelNotFound, PoolUnavailable
from services.log import EventLog
from services.readmodel import ReadModel


@dataclass(frozen=True)
class Route:
    """One epoch of one pool. `node_ids` in ring order, the entry first; `seal_key` is the entry's.

    `coalition` and the epoch's `gda_pool` are what a session of a priced pool pays; None: nobody can pay yet.
    `over`: the coalition has ended its epoch, so that not even an open session can pay for another request.
    """

    pool_id: str
    name: str
    model: str
    epoch: int
    context_length: int
    kv_slots: int
    price_wei_per_s: str
    node_ids: tuple[str, ...]
    seal_key: str
    coalition: str | None = None
    gda_pool: str | None = None
    over: bool = False

    @property
    def is_free(self) -> bool:
        return self.price_wei_per_s == "0"

    @property
    def entry_node_id(self) -> str:
        return self.node_ids[0]


@dataclass
class Routing:
    """Seal keys are kept: a node's registration never changes."""

    rows: ReadModel
    events: EventLog
    _seal_keys: dict[str, str] = field(default_factory=dict)

    async def of_model(self, model: str) -> Route:
        """Raises ModelNotFound, PoolUnavailable (not activated yet)."""
        row = await self.rows.pool_by_name(model)
        if row is None:
            raise ModelNotFound(f"No pool serves the model {model!r}.", param="model")
        return await self.of_pool(str(row["id"]))

    async def of_pool(self, pool_id: str) -> Route:
        """As `of_model`, by the pool's id."""
        history = await self.events.history("pool", pool_id)
        state = pool.pool.fold(item.event for item in history.recorded)
        if not isinstance(state, pool.Forming):
            raise ModelNotFound(f"No pool in service has the id {pool_id}.", param="model")
        terms, serving = state.terms, state.serving
        if serving is None:
            raise PoolUnavailable(f"{terms.name} has been proposed but does not serve yet.")
        node_ids = tuple(shard.node_id for shard in serving.shards)
        return Route(
            pool_id,
            terms.name,
            terms.model,
            serving.epoch,
            terms.context_length,
            terms.kv_slots,
            terms.price_wei_per_s,
            node_ids,
            await self._seal_key(node_ids[0]),
            state.openings.coalition,
            state.openings.gda_pool_of(serving.epoch),
            state.openings.over,
        )

    async def _seal_key(self, node_id: str) -> str:
        if node_id not in self._seal_keys:
            history = await self.events.history("node", node_id)
            state: Any = node.node.fold(item.event for item in history.recorded)
            if isinstance(state, node.Absent):
                raise PoolUnavailable(f"The entry node {node_id} is not registered.")
            self._seal_keys[node_id] = state.registration.seal_key
        return self._seal_keys[node_id]
