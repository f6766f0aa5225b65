"""Breaches over REST: reading them, and reporting one; knows nothing of evidence bodies or of votes' form."""

import hashlib
import time
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from events import node, pool, session, slash
from events import slash_refusals as refusals
from events.breach import Kind
from events.ids import slash_id_of
from events.seat import seat_of
from events.slash_policies import case_of
from services import control
from services.credentials import Principal
from services.gateway.auth import Accuser, Caller, Here
from services.gateway.breach_refusals import BreachTermsUnknown, SeatUnknown
from services.gateway.commands import command
from services.gateway.idempotency import Answer, Attempt
from services.gateway.paging import Fresh, Paging, Row, page_of
from services.gateway.refusals import OperatorOnly
from services.gateway.state import Gateway

router = APIRouter(tags=["Breaches"])
SlashId = Annotated[str, Path(description="follows from session, operator and kind")]
BY_RECEIPTS: tuple[Kind, ...] = ("wrong_output", "meter_fraud", "equivocation")
Told = slash.Report | slash.AddProbes | slash.AddEvidence | slash.CastVote


class ReportBreach(BaseModel):
    """Who failed which paid session, and how. The pool's coalition has the terms."""

    model_config = ConfigDict(extra="forbid")

    session_id: str = Field(pattern=r"^[0-7][0-9a-hjkmnp-tv-z]{25}$")
    node_id: str = Field(pattern=r"^[0-7][0-9a-hjkmnp-tv-z]{25}$")
    kind: Kind
    attempt: int | None = Field(None, ge=0, lt=2**31)
    """Of `wrong_output` and `meter_fraud`: the number of the plan by which the node computed."""


@router.get("/slashes", summary="Breaches, newest first", dependencies=[Fresh])
async def slashes(here: Here, _: Caller, paging: Paging) -> dict[str, Any]:
    return await page_of(here.rows.slashes(paging.after, paging.limit), _shown_row)


@router.get("/slashes/{slash_id}", summary="One breach: its case, votes and claim")
async def one_slash(slash_id: SlashId, here: Here, _: Caller) -> dict[str, Any]:
    """From the log itself, so that an attestor sees what it has to judge."""
    history = (await here.events.history("slash", known_slash_id(slash_id))).recorded
    state = slash.slash.fold(item.event for item in history)
    if not isinstance(state, slash.Slash):
        raise refusals.SlashUnknown
    return {
        "slash_id": slash_id,
        "stage": state.stage,
        "due": state.due(int(time.time())),
        "report": msgspec.to_builtins(state.report),
        "votes_until_unix_s": state.report.votes_until_unix_s,
        "statements": state.said,
        "evidence_hash": None if state.evidence is None else state.evidence.evidence_hash,
        "votes": [msgspec.to_builtins(vote) for vote in state.votes],
        "quorum": msgspec.to_builtins(state.quorum),
        "claim_id": None if state.claim is None else state.claim.claim_id,
        "timeline": [
            {"position": item.position, "time_unix_ms": item.time_unix_ms, **msgspec.to_builtins(item.event)}
            for item in history
        ],
    }


@router.post("/slashes", status_code=201, summary="Report a breach", response_model=None)
async def report(body: ReportBreach, request: Request, here: Here, who: Accuser) -> Response:
    """An operator reports anything; a paid session's key, what receipts of this session prove."""
    own = who.kind == "session" and who.id == body.session_id and body.kind in BY_RECEIPTS
    if not who.is_operator and not own:
        raise OperatorOnly

    async def act(attempt: Attempt) -> Answer:
        case = await _case(here, body, reporter_of(who), attempt.at_unix_ms)
        slash_id = slash_id_of(case.session_id, case.operator, case.kind)
        told = slash.Report(case)
        answer = await command(here, control.TellSlash(slash_id, told), attempt.command_id)
        return Answer({"slash_id": slash_id, "position": answer.sequence}, 201 if answer.events else 200)

    return await here.idempotency.once(request, who, body, act)


async def _case(here: Gateway, body: ReportBreach, reporter: str, at_unix_ms: int) -> slash.Reported:
    """Raises SessionUnknown, NodeUnknown, BreachTermsUnknown, SeatUnknown."""
    known = await here.events.history("session", body.session_id)
    opened = session.session.fold(item.event for item in known.recorded)
    if not isinstance(opened, session.OpenSession | session.Closed):
        raise session.SessionUnknown
    known = await here.events.history("node", body.node_id)
    seat = node.node.fold(item.event for item in known.recorded)
    if isinstance(seat, node.Absent):
        raise node.NodeUnknown
    known = await here.events.history("pool", opened.terms.pool_id)
    forming = pool.pool.fold(item.event for item in known.recorded)
    if not isinstance(forming, pool.Forming):
        raise BreachTermsUnknown
    registered, in_plan = seat.registration, None
    if body.kind in slash.SEATED:
        history = (item.event for item in known.recorded)
        in_plan = None if body.attempt is None else seat_of(history, body.node_id, body.attempt)
        if in_plan is None:
            raise SeatUnknown
    case = case_of(forming, registered, body.session_id, opened, body.kind, reporter, at_unix_ms, in_plan)
    if case is None:
        raise BreachTermsUnknown
    return case


def reporter_of(who: Principal) -> str:
    """How `slash.reported` spells whoever reported."""
    return f"{who.kind}:{who.id}"


async def known(here: Gateway, slash_id: str) -> slash.Slash:
    """The breach as the log has it now. Raises SlashUnknown."""
    history = await here.events.history("slash", known_slash_id(slash_id))
    state = slash.slash.fold(item.event for item in history.recorded)
    if not isinstance(state, slash.Slash):
        raise refusals.SlashUnknown
    return state


def known_slash_id(slash_id: str) -> str:
    """Raises SlashUnknown for what can't be an id, before it becomes part of a subject."""
    if len(slash_id) != 26 or not slash_id.isascii() or not slash_id.isalnum():
        raise refusals.SlashUnknown
    return slash_id.lower()


async def tell(here: Gateway, slash_id: str, told: Told) -> control.Answer:
    """What is signed or named by its hash has an idempotency key of its own: its content."""
    digest = hashlib.sha256(msgspec.json.encode(told)).hexdigest()
    return await command(here, control.TellSlash(slash_id, told), f"slash:{slash_id}:{digest}")


def _shown_row(row: Row) -> Row:
    return {"slash_id": row["id"], **{key: value for key, value in row.items() if key != "id"}}
