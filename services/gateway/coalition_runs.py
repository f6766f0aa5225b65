"""Keeper runs that make a pool payable, over REST: its coalition is proposed, its epoch activated.

The gateway writes the workflow's input itself, from typed bodies and from the log. Knows nothing of how a run
is carried out.
"""

import json
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from events import workflow
from events.ids import run_command_id, run_id_of
from events.workflow import Requested, WorkflowName
from services import control
from services.chain import coalitions, manifest
from services.chain.consents import FOR_GOOD_UNIX_S
from services.gateway.auth import Here, Operator
from services.gateway.coalitions import AddressText, seats_of_plan
from services.gateway.commands import command
from services.gateway.idempotency import Answer, Attempt
from services.gateway.pools import PoolId, known_pool_id
from services.gateway.refusals import ChainAwayProblem, CoalitionTermsRefused
from services.gateway.state import Gateway
from services.gateway.till import Chain

router = APIRouter(tags=["Pools"])
Signature = Annotated[str, Field(pattern=r"^0x[0-9a-f]{130}$")]


class Proposal(BaseModel):
    """`terms`: the fields of CoalitionTerms, see docs/operate.md."""

    model_config = ConfigDict(extra="forbid")

    terms: dict[str, Any]


class Bond(BaseModel):
    """An operator's EIP-3009 authorisation for the coalition, `micro` of micro-USDC."""

    model_config = ConfigDict(extra="forbid")

    operator: AddressText
    micro: int = Field(gt=0, lt=2**64)
    nonce: str = Field(pattern=r"^0x[0-9a-f]{64}$")
    signature: Signature


class Activation(BaseModel):
    """`consents` in the order of the plan's shards; `chain_epoch` is the one that operators consented to."""

    model_config = ConfigDict(extra="forbid")

    epoch: int = Field(ge=1, lt=2**31)
    coalition: AddressText
    chain_epoch: int = Field(ge=1, lt=2**31)
    bonds: list[Bond] = Field(max_length=64)
    consents: list[Signature] = Field(max_length=64)


@router.post("/pools/{pool_id}/proposal", summary="Make a pool's coalition stand", response_model=None)
async def propose(pool_id: PoolId, body: Proposal, request: Request, here: Here, who: Operator) -> Response:
    async def act(attempt: Attempt) -> Answer:
        chain = await here.till.chain()
        try:
            terms = msgspec.convert(body.terms, coalitions.CoalitionTerms)
            known = manifest.read(here.settings.manifest_of(chain.network.chain_id))
            place = coalitions.coalition_of(known, known_pool_id(pool_id), terms)
        except (msgspec.ValidationError, ValueError) as wrong:
            raise CoalitionTermsRefused(str(wrong)) from wrong
        except manifest.NotDeployed as missing:
            raise ChainAwayProblem(str(missing)) from missing
        if terms.steward.lower() != chain.controller.lower():
            raise CoalitionTermsRefused(
                f"the steward is {terms.steward}, the keeper's wallet {chain.controller}"
            )
        input = {
            "coalition_factory": place.factory.address,
            "salt": "0x" + place.salt.hex(),
            "init_code": "0x" + place.init_code.hex(),
        }
        run_id = await _ask(here, chain, "propose", pool_id, place.address, input)
        return Answer({"run_id": run_id, "coalition": place.address})

    return await here.idempotency.once(request, who, body, act)


@router.post("/pools/{pool_id}/activation", summary="Take bonds and open a plan's epoch", response_model=None)
async def activate(
    pool_id: PoolId, body: Activation, request: Request, here: Here, who: Operator
) -> Response:
    async def act(attempt: Attempt) -> Answer:
        chain = await here.till.chain()
        seats = await seats_of_plan(here, known_pool_id(pool_id), body.epoch)
        if len(seats) != len(body.consents):
            raise CoalitionTermsRefused(f"{len(seats)} seats, {len(body.consents)} consents")
        input = {
            "coalition": body.coalition,
            "bonds": json.dumps([bond.model_dump() | {"micro": str(bond.micro)} for bond in body.bonds]),
            "seats": json.dumps(
                [[seat.operator, str(seat.units), seat.node, seat.receipt_key] for seat in seats]
            ),
            "consents": json.dumps(body.consents),
            "valid_before": str(FOR_GOOD_UNIX_S),
        }
        step = f"{body.coalition.lower()}:{body.chain_epoch}"
        run_id = await _ask(here, chain, "activate-and-pool", pool_id, step, input)
        return Answer({"run_id": run_id})

    return await here.idempotency.once(request, who, body, act)


async def _ask(
    here: Gateway, chain: Chain, name: WorkflowName, pool_id: str, step: str, input: dict[str, str]
) -> str:
    """The run that is open for this step, or a new attempt after one that failed; one that did it stays."""
    attempt = 1
    while True:
        run_id = run_id_of(name, pool_id, step, attempt)
        history = await here.events.history("workflow", run_id)
        state = workflow.workflow.fold(item.event for item in history.recorded)
        if isinstance(state, workflow.Absent):
            break
        if not isinstance(state.ended, workflow.Failed):
            return run_id
        attempt += 1
    whole = {"network": str(chain.network.chain_id), "pool_id": pool_id, **input}
    requested = Requested(name, "pool", pool_id, step, attempt, whole)
    await command(here, control.RequestRun(run_id, requested), run_command_id(run_id))
    return run_id
