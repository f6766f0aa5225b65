"""Nodes over REST: challenge, registration, reading, drain and retire; knows nothing of what a node
computes.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from events import node
from services import control
from services.gateway.auth import Caller, Here, Operator
from services.gateway.commands import command
from services.gateway.idempotency import Answer, Attempt
from services.gateway.paging import Fresh, Paging, Row, found, page_of
from services.gateway.registration import Challenges, proven
from services.gateway.state import Gateway

router = APIRouter(tags=["Nodes"])

HEX32 = r"^[0-9a-f]{64}$"
ADDRESS = r"^0x[0-9a-fA-F]{40}$"
NodeId = Annotated[str, Path(description="a node's id")]
Hex = Annotated[str, Field(pattern=r"^(0x)?[0-9a-fA-F]{128,132}$")]


class Signatures(BaseModel):
    """Hex. mesh, nats: Ed25519 over the EIP-712 digest (64 bytes); receipt, payout: secp256k1 (65 bytes
    r, s, v).
    """

    model_config = ConfigDict(extra="forbid")

    mesh: Hex
    nats: Hex
    receipt: Hex
    payout: Hex


class Register(BaseModel):
    """What `events.registration.registration` binds, a label, and the signatures of all four keys."""

    model_config = ConfigDict(extra="forbid")

    label: str = Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]+$")
    node_id: str = Field(pattern=r"^[0-9a-z]{26}$")
    mesh_key: str = Field(pattern=HEX32)
    nats_key: str = Field(max_length=64)
    receipt_key: str = Field(pattern=ADDRESS)
    seal_key: str = Field(pattern=HEX32)
    payout_wallet: str = Field(pattern=ADDRESS)
    challenge: str = Field(pattern=HEX32)
    expires_unix_s: int = Field(ge=0, lt=2**40)
    signatures: Signatures

    @property
    def claim(self) -> dict[str, Any]:
        return self.model_dump(exclude={"label", "signatures"})


class Reason(BaseModel):
    """Why, for whoever reads the log later. Never put personal data here."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field("asked by the operator", max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")


@router.post("/nodes/challenges", status_code=201, summary="A challenge to sign", response_model=None)
async def challenge(request: Request, here: Here, who: Operator) -> Response:
    async def act(_: Attempt) -> Answer:
        made = await Challenges(here.engine).issue()
        body = {
            "challenge": made.challenge,
            "expires_unix_s": made.expires_unix_s,
            "chain_id": here.settings.chain_id,
        }
        return Answer(body, 201)

    return await here.idempotency.once(request, who, None, act)


@router.post("/nodes", status_code=201, summary="Register a node", response_model=None)
async def register(body: Register, request: Request, here: Here, who: Operator) -> Response:
    async def act(attempt: Attempt) -> Answer:
        signatures = {
            signer: signature.removeprefix("0x") for signer, signature in body.signatures.model_dump().items()
        }
        registered = proven(body.claim, body.label, signatures, here.settings.chain_id)
        if not await _is_registered_so(here, registered):
            await Challenges(here.engine).use(body.challenge, body.expires_unix_s)
        answer = await command(here, control.RegisterNode(registered), attempt.command_id)
        status = 201 if answer.events else 200
        return Answer({"node_id": registered.node_id, "position": answer.sequence}, status)

    return await here.idempotency.once(request, who, body, act)


async def _is_registered_so(here: Gateway, registered: node.Registered) -> bool:
    """Whether the very same registration stands in the log: then its challenge was used for it, rightly."""
    history = await here.events.history("node", registered.node_id)
    first = history.recorded[0].event if history.recorded else None
    return isinstance(first, node.Registered) and first.binding_digest == registered.binding_digest


@router.get("/nodes", summary="Nodes", dependencies=[Fresh])
async def nodes(here: Here, _: Caller, paging: Paging) -> dict[str, Any]:
    return await page_of(here.rows.nodes(paging.after, paging.limit), lambda row: shown_node(here, row))


@router.get("/nodes/{node_id}", summary="One node", dependencies=[Fresh])
async def one_node(node_id: NodeId, here: Here, _: Caller) -> dict[str, Any]:
    row = await found(here, lambda: here.rows.node(node_id))
    if row is None:
        raise node.NodeUnknown
    return shown_node(here, row)


@router.post("/nodes/{node_id}/drain", summary="Give a node no new shards", response_model=None)
async def drain(
    node_id: NodeId, request: Request, here: Here, who: Operator, body: Reason | None = None
) -> Response:
    return await _told(node_id, request, here, who, body or Reason(), control.DrainNode)


@router.post("/nodes/{node_id}/retire", summary="Take a node out for good", response_model=None)
async def retire(
    node_id: NodeId, request: Request, here: Here, who: Operator, body: Reason | None = None
) -> Response:
    return await _told(node_id, request, here, who, body or Reason(), control.RetireNode)


async def _told(
    node_id: str,
    request: Request,
    here: Gateway,
    who: Operator,
    body: Reason,
    ask: type[control.DrainNode] | type[control.RetireNode],
) -> Response:
    async def act(attempt: Attempt) -> Answer:
        answer = await command(here, ask(known_id(node_id), body.reason), attempt.command_id)
        return Answer({"node_id": node_id, "position": answer.sequence})

    return await here.idempotency.once(request, who, body, act)


def known_id(node_id: str) -> str:
    """Raises NodeUnknown for what can't be an id, before it becomes part of a subject."""
    if len(node_id) != 26 or not node_id.isascii() or not node_id.isalnum():
        raise node.NodeUnknown
    return node_id


def shown_node(here: Gateway, row: Row) -> Row:
    """A node's row as clients see it: `status` is reachable, lost, draining or retired.

    `kv_slots_used`, `active_requests`: as it said a moment ago, over all its pools; null when not heard.
    """
    shown = {"node_id": row["id"], **{key: value for key, value in row.items() if key != "id"}}
    shown["status"] = "reachable" if row["status"] == "active" else row["status"]
    alive = here.heartbeats.latest(row["id"])
    shown["kv_slots_used"] = None if alive is None else alive.kv_slots_used
    shown["active_requests"] = None if alive is None else alive.active_requests
    return shown
