"""Pools over REST: propose, accept, plan, retire and read; knows nothing of how layers are cut or loaded."""

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from events import node, pool
from events.registration import acceptance
from events.shares import WEI_PER_MICRO
from services import control
from services.gateway.auth import Caller, Here, Operator
from services.gateway.commands import command
from services.gateway.idempotency import Answer, Attempt
from services.gateway.model_files import find_model, inspect
from services.gateway.nodes import HEX32, Reason
from services.gateway.paging import Fresh, Paging, Row, found, page_of
from services.gateway.refusals import AcceptanceForged, InvalidRequest, PoolNameTaken
from services.gateway.sessions import is_id
from services.gateway.state import Gateway
from services.typed_data import recovered_signer

router = APIRouter(tags=["Pools"])
PoolId = Annotated[str, Path(description="a pool's id")]
NodeIdText = Annotated[str, Field(pattern=r"^[0-9a-z]{26}$")]


class Propose(BaseModel):
    """`model` is looked up below COMPUTEPOOL_MODEL_DIRS on the gateway and on each node; `weights_digest`
    is of `python -m shard_runtime.weights DIR`.
    """

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/:-]{0,127}$", description="clients' `model`")
    model: str = Field(min_length=1, max_length=1024, pattern=r"^[^\x00-\x1f\x7f]+$")
    revision: str = Field("local", max_length=64, pattern=r"^[A-Za-z0-9._/-]+$")
    weights_digest: str = Field(pattern=HEX32)
    dtype: Literal["float32", "bfloat16"] = "float32"
    context_length: int | None = Field(None, ge=2, lt=2**31, description="default: the model's own")
    kv_slots: int = Field(4, ge=1, le=4096, description="requests at once")
    price_wei_per_s: str = Field(
        "0", pattern=r"^(0|[1-9][0-9]{0,77})$", description='of a request; a multiple of 10^12; "0": free'
    )
    deterministic: bool = Field(
        False, description="its operators and attestors promise equal bits, and are held to them"
    )


class Accept(BaseModel):
    """`signature`: 65 bytes hex by the node's receipt key over `events.registration.acceptance`."""

    model_config = ConfigDict(extra="forbid")

    node_id: NodeIdText
    signature: str = Field(pattern=r"^(0x)?[0-9a-fA-F]{130}$")


class Plan(BaseModel):
    """`node_ids` in ring order; none: every usable member."""

    model_config = ConfigDict(extra="forbid")

    node_ids: list[NodeIdText] = Field(default=[], max_length=1024)


@router.post("/pools", status_code=201, summary="Propose a pool", response_model=None)
async def propose(body: Propose, request: Request, here: Here, who: Operator) -> Response:
    async def act(attempt: Attempt) -> Answer:
        taken = await here.rows.pool_by_name(body.name)
        if taken is not None and taken["status"] != "retired" and taken["id"] != attempt.ulid:
            raise PoolNameTaken(f"Pool {taken['id']} has the name {body.name!r}.", param="name")
        proposed = await asyncio.to_thread(_proposed, body, here.settings.model_dirs)
        answer = await command(here, control.ProposePool(attempt.ulid, proposed), attempt.command_id)
        here.templates.warm_soon(body.model)
        shown = {"pool_id": attempt.ulid, "position": answer.sequence, "proposed": _plain(proposed)}
        return Answer(shown, 201)

    return await here.idempotency.once(request, who, body, act)


def _proposed(body: Propose, model_dirs: tuple[Any, ...]) -> pool.Proposed:
    if int(body.price_wei_per_s) % WEI_PER_MICRO:
        text = f"{body.price_wei_per_s} wei per second is no whole number of micro-USDC per second."
        raise InvalidRequest(text, param="price_wei_per_s")
    facts = inspect(find_model(body.model, model_dirs), body.dtype, body.context_length)
    context_length = facts.context_length if body.context_length is None else body.context_length
    if context_length > facts.context_length:
        raise InvalidRequest(f"The model's context is {facts.context_length} tokens.", param="context_length")
    return pool.Proposed(
        name=body.name,
        model=body.model,
        revision=body.revision,
        weights_digest=body.weights_digest,
        architecture=facts.architecture,
        num_layers=facts.num_layers,
        layer_bytes=facts.layer_bytes,
        embedding_bytes=facts.embedding_bytes,
        head_bytes=facts.head_bytes,
        dtype=body.dtype,
        context_length=context_length,
        kv_slots=body.kv_slots,
        price_wei_per_s=body.price_wei_per_s,
        deterministic=body.deterministic,
    )


def _plain(proposed: pool.Proposed) -> dict[str, Any]:
    return {name: getattr(proposed, name) for name in proposed.__struct_fields__}


@router.get("/pools", summary="Pools", dependencies=[Fresh])
async def pools(here: Here, _: Caller, paging: Paging) -> dict[str, Any]:
    return await page_of(here.rows.pools(paging.after, paging.limit), lambda row: shown_pool(here, row))


@router.get("/pools/{pool_id}", summary="One pool with its shards and members", dependencies=[Fresh])
async def one_pool(pool_id: PoolId, here: Here, _: Caller) -> dict[str, Any]:
    row = await found(here, lambda: here.rows.pool(pool_id))
    if row is None:
        raise pool.PoolUnknown
    return shown_pool(here, row)


@router.post("/pools/{pool_id}/members", summary="An operator's consent", response_model=None)
async def accept(pool_id: PoolId, body: Accept, request: Request, here: Here, who: Operator) -> Response:
    async def act(attempt: Attempt) -> Answer:
        terms = await _terms(here, pool_id)
        typed = acceptance(
            chain_id=here.settings.chain_id,
            pool_id=pool_id,
            node_id=body.node_id,
            weights_digest=terms.weights_digest,
        )
        signature = body.signature.removeprefix("0x")
        signer = recovered_signer(typed, signature)
        if signer is None or signer.lower() != (await _receipt_key(here, body.node_id)).lower():
            raise AcceptanceForged(param="signature")
        ask = control.AcceptMember(pool_id, body.node_id, signature)
        answer = await command(here, ask, attempt.command_id)
        return Answer({"pool_id": pool_id, "node_id": body.node_id, "position": answer.sequence})

    return await here.idempotency.once(request, who, body, act)


@router.post(
    "/pools/{pool_id}/plan", summary="Cut the model over the members and load it", response_model=None
)
async def plan(
    pool_id: PoolId, request: Request, here: Here, who: Operator, body: Plan | None = None
) -> Response:
    asked = body or Plan()

    async def act(attempt: Attempt) -> Answer:
        ask = control.PlanPool(known_pool_id(pool_id), tuple(asked.node_ids))
        answer = await command(here, ask, attempt.command_id)
        return Answer({"pool_id": pool_id, "position": answer.sequence})

    return await here.idempotency.once(request, who, asked, act)


@router.post("/pools/{pool_id}/retire", summary="Close a pool for good", response_model=None)
async def retire(
    pool_id: PoolId, request: Request, here: Here, who: Operator, body: Reason | None = None
) -> Response:
    asked = body or Reason()

    async def act(attempt: Attempt) -> Answer:
        answer = await command(
            here, control.RetirePool(known_pool_id(pool_id), asked.reason), attempt.command_id
        )
        return Answer({"pool_id": pool_id, "position": answer.sequence})

    return await here.idempotency.once(request, who, asked, act)


def known_pool_id(pool_id: str) -> str:
    if not is_id(pool_id):
        raise pool.PoolUnknown
    return pool_id


async def _terms(here: Gateway, pool_id: str) -> pool.Proposed:
    """From the log. Raises PoolUnknown."""
    history = await here.events.history("pool", known_pool_id(pool_id))
    state = pool.pool.fold(item.event for item in history.recorded)
    if isinstance(state, pool.Absent):
        raise pool.PoolUnknown
    return state.terms


async def _receipt_key(here: Gateway, node_id: str) -> str:
    """From the log. Raises NodeUnknown."""
    history = await here.events.history("node", node_id)
    state = node.node.fold(item.event for item in history.recorded)
    if isinstance(state, node.Absent):
        raise node.NodeUnknown
    return state.registration.receipt_key


def shown_pool(here: Gateway, row: Row) -> Row:
    """A pool's row as clients see it, with the chain that consents are bound to.

    `shards` are those that serve; while none do, those of the plan. `leaving`: of earlier ones, not done.
    """
    shown = {"pool_id": row["id"], **{key: value for key, value in row.items() if key != "id"}}
    shown["chain_id"] = here.settings.chain_id
    shown["shards"] = [_shard(one) for one in row["shards"] or row["planned_shards"]]
    shown["planned_shards"] = [_shard(one) for one in row["planned_shards"]]
    shown["leaving"] = [_shard(one) for one in row["leaving"]]
    return shown


def _shard(row: Row) -> Row:
    return {**row, "ready": row["state"] == "ready", "failed": row["error_code"]}
