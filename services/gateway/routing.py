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
from shard_runtime.messages import Dtype, PlanMember


@dataclass(frozen=True)
class Route:
    """One epoch of one pool. `members` in ring order, the entry first; `seal_key` is the entry's.

    `coalition` and the epoch's `gda_pool` are what a session of a priced pool pays; None: nobody can pay yet.
    `chain_epoch` is the contract's own count: its seats answer for what the members sign.
    `over`: the coalition has ended its epoch, so that not even an open session can pay for another request.
    """

    pool_id: str
    name: str
    model: str
    epoch: int
    context_length: int
    kv_slots: int
    price_wei_per_s: str
    weights_digest: str
    dtype: Dtype
    members: tuple[PlanMember, ...]
    seal_key: str
    coalition: str | None = None
    chain_epoch: int | None = None
    gda_pool: str | None = None
    over: bool = False

    @property
    def is_free(self) -> bool:
        return self.price_wei_per_s == "0"

    @property
    def node_ids(self) -> tuple[str, ...]:
        return tuple(member.node_id for member in self.members)

    @property
    def entry_node_id(self) -> str:
        return self.members[0].node_id


@dataclass
class Routing:
    """Registrations are kept: a node's never changes."""

    rows: ReadModel
    events: EventLog
    _registered: dict[str, node.Registered] = field(default_factory=dict)

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
        nodes = [await self._registration(shard.node_id) for shard in serving.shards]
        return Route(
            pool_id,
            terms.name,
            terms.model,
            serving.epoch,
            terms.context_length,
            terms.kv_slots,
            terms.price_wei_per_s,
            terms.weights_digest,
            terms.dtype,
            tuple(
                PlanMember(
                    shard.node_id, shard.mesh_key, known.receipt_key, shard.first_layer, shard.end_layer
                )
                for shard, known in zip(serving.shards, nodes, strict=True)
            ),
            nodes[0].seal_key,
            state.openings.coalition,
            state.openings.chain_epoch_of(serving.epoch),
            state.openings.gda_pool_of(serving.epoch),
            state.openings.over,
        )

    async def _registration(self, node_id: str) -> node.Registered:
        if node_id not in self._registered:
            history = await self.events.history("node", node_id)
            state: Any = node.node.fold(item.event for item in history.recorded)
            if isinstance(state, node.Absent):
                raise PoolUnavailable(f"Node {node_id} of the ring is not registered.")
            self._registered[node_id] = state.registration
        return self._registered[node_id]
