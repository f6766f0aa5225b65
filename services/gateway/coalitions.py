"""A pool's coalition over REST: a claim about the chain, which the gateway looks up itself before it counts.

Knows nothing of how a contract is read (`services.chain.openings`) or of who opened the epoch.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from events import node, pool
from services import control
from services.chain import manifest, openings
from services.chain.coalitions import Seat
from services.chain.rpc import ChainAway, RpcRefused
from services.gateway.auth import Here, Operator
from services.gateway.commands import command
from services.gateway.idempotency import Answer, Attempt
from services.gateway.pools import PoolId, known_pool_id
from services.gateway.refusals import ChainAwayProblem, CoalitionUnconfirmed, CoalitionUnproven
from services.gateway.state import Gateway

router = APIRouter(tags=["Pools"])
AddressText = Annotated[str, Field(pattern=r"^0x[0-9a-fA-F]{40}$")]


class OpenCoalition(BaseModel):
    """`epoch` is the plan whose operators are paid; `transaction` called the contract's openEpoch.

    `attestors`: all whom the contract's terms name; none: breaches are not reported by themselves.
    """

    model_config = ConfigDict(extra="forbid")

    epoch: int = Field(ge=1, lt=2**31)
    coalition: AddressText
    transaction: str = Field(pattern=r"^0x[0-9a-f]{64}$")
    attestors: tuple[AddressText, ...] = Field((), max_length=64)


@router.post(
    "/pools/{pool_id}/coalition", summary="The contract that pays a plan's operators", response_model=None
)
async def open_coalition(
    pool_id: PoolId, body: OpenCoalition, request: Request, here: Here, who: Operator
) -> Response:
    async def act(attempt: Attempt) -> Answer:
        seats = await seats_of_plan(here, known_pool_id(pool_id), body.epoch)
        found = await _on_chain(here, body, seats)
        holder = await here.rows.pool_of_coalition(found.coalition)
        if holder is not None and holder["id"] != pool_id:
            raise CoalitionUnproven(f"{found.coalition} is the coalition of pool {holder['id']}.")
        opened = pool.CoalitionOpened(
            found.coalition,
            found.at.chain_id,
            body.epoch,
            found.epoch,
            found.gda_pool,
            found.at,
            found.breach_terms,
        )
        answer = await command(here, control.OpenCoalition(pool_id, opened), attempt.command_id)
        shown: dict[str, Any] = {"pool_id": pool_id, "position": answer.sequence, "epoch": body.epoch}
        shown |= {"coalition": found.coalition, "chain_epoch": found.epoch, "gda_pool": found.gda_pool}
        return Answer(shown)

    return await here.idempotency.once(request, who, body, act)


async def seats_of_plan(here: Gateway, pool_id: str, epoch: int) -> tuple[Seat, ...]:
    """What the contract must have been given for this plan, from the log.

    Raises PoolUnknown, PoolRetired, PoolIsFree, CoalitionEpochStale.
    """
    history = await here.events.history("pool", pool_id)
    state = pool.pool.fold(item.event for item in history.recorded)
    if not isinstance(state, pool.Forming):
        raise pool.PoolUnknown if isinstance(state, pool.Absent) else pool.PoolRetired
    if state.terms.price_wei_per_s == "0":
        raise pool.PoolIsFree
    plans = [plan for plan in (state.plan, state.serving) if plan is not None and plan.epoch == epoch]
    if not plans:
        raise pool.CoalitionEpochStale(f"plan {epoch} is neither served nor the newest")
    return tuple([await _seat(here, shard) for shard in plans[0].shards])


async def _seat(here: Gateway, shard: pool.Shard) -> Seat:
    history = await here.events.history("node", shard.node_id)
    state = node.node.fold(item.event for item in history.recorded)
    if isinstance(state, node.Absent):
        raise node.NodeUnknown
    known = state.registration
    return Seat(known.payout_wallet, shard.units, shard.node_id, known.receipt_key)


async def _on_chain(here: Gateway, body: OpenCoalition, seats: tuple[Seat, ...]) -> openings.Opening:
    """Raises ChainAwayProblem, CoalitionUnproven, CoalitionUnconfirmed."""
    chain = await here.till.chain()
    try:
        known = manifest.read(here.settings.manifest_of(chain.network.chain_id))
        return await openings.opening_of(
            chain.rpc, chain.network, known, body.coalition, body.transaction, seats, body.attestors
        )
    except (ChainAway, RpcRefused, manifest.NotDeployed) as away:
        raise ChainAwayProblem(str(away)) from away
    except openings.OpeningUnproven as unproven:
        raise CoalitionUnproven(str(unproven)) from unproven
    except openings.OpeningUnconfirmed as shallow:
        raise CoalitionUnconfirmed(str(shallow)) from shallow
