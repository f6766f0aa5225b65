"""What attestors send about a breach: probes to pass on, statements, evidence, votes.

Everything is checked here as an attestor would check it; the orchestrator then hands it to the aggregate.
"""

import time
from typing import Any, TypeVar

import msgspec
import structlog
from fastapi import APIRouter, Request
from fastapi.responses import Response
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeout
from pydantic import BaseModel, ConfigDict, Field

from events import slash
from events import slash_refusals as refusals
from events.breach import VoteCast
from events.evidence import MAX_BYTES, Dissent, Statement, assembled, canonical, flaw_of
from services.blobs import BlobMissing
from services.gateway.auth import Caller, Here
from services.gateway.breach_refusals import (
    AttestationForged,
    EvidenceNotTheReporters,
    EvidenceUnknown,
    EvidenceUnproven,
)
from services.gateway.refusals import InvalidRequest, LogUnavailableProblem, RemoteRefusal, RequestTooLarge
from services.gateway.slashes import SlashId, known, known_slash_id, reporter_of, tell
from services.gateway.state import Gateway
from services.verifier.attesting import signed_by, statement_typed, vote_typed
from services.verifier.judge import judge_case
from services.verifier.outputs import Open
from shard_runtime.probes import ProbeAnswered, ProbeAsked, probe_subject

log = structlog.get_logger("gateway")
router = APIRouter(tags=["Breaches"])
T = TypeVar("T")


class Probe(BaseModel):
    """One challenge to the accused node. `within_ms`: how long to wait for its answer."""

    model_config = ConfigDict(extra="forbid")

    attestor: str = Field(pattern=r"^0x[0-9a-fA-F]{40}$")
    nonce: str = Field(pattern=r"^[0-9a-f]{64}$")
    sent_unix_ms: int = Field(ge=0, lt=2**53)
    within_ms: int = Field(2_000, ge=1, le=5_000)


@router.post("/slashes/{slash_id}/probes", summary="Pass a challenge on to the accused node")
async def probe(slash_id: SlashId, body: Probe, here: Here, _: Caller) -> dict[str, Any]:
    """`signature` is the node's own, over the challenge: who passes it on can withhold it, not make it."""
    state = await known(here, slash_id)
    case, now_ms = state.report, time.time_ns() // 1_000_000
    if state.stage != "reported" or now_ms > case.at_unix_ms + case.longest_probe_window_s * 1000:
        raise refusals.VotesClosed("the window of the probes is over")
    if body.attestor.lower() not in {attestor.lower() for attestor in case.attestors}:
        raise refusals.NotAttestor
    asked = msgspec.json.encode(ProbeAsked(body.nonce, body.attestor, body.sent_unix_ms))
    if not here.client.is_connected:
        raise LogUnavailableProblem
    try:
        subject = probe_subject(case.node_id)
        reply = await here.client.request(subject, asked, timeout=body.within_ms / 1000)
        signature: str | None = msgspec.json.decode(reply.data, type=ProbeAnswered).signature
    except (NoRespondersError, NatsTimeout, msgspec.MsgspecError):
        signature = None
    except NatsError as away:
        raise LogUnavailableProblem(repr(away)) from away
    return {"signature": signature, "received_unix_ms": time.time_ns() // 1_000_000}


@router.post("/slashes/{slash_id}/statements", summary="An attestor's signed probes", response_model=None)
async def statements(slash_id: SlashId, request: Request, here: Here, _: Caller) -> dict[str, Any]:
    """Once a quorum of them is here, the evidence is assembled from them."""
    statement = _decoded(await request.body(), Statement)
    case = (await known(here, slash_id)).report
    if (statement.slash_id, statement.node_id) != (known_slash_id(slash_id), case.node_id):
        raise EvidenceUnproven("statement_foreign")
    if not signed_by(statement.attestor, statement_typed(case, statement), statement.signature):
        raise AttestationForged
    flaw = flaw_of(case, statement.probes)
    if flaw is not None:
        raise EvidenceUnproven(flaw)
    body = canonical(statement)
    probed = slash.Probed(statement.attestor, here.blobs.put(body), len(body))
    answer = await tell(here, known_slash_id(slash_id), slash.AddProbes(probed))
    evidence_hash = await _assemble(here, known_slash_id(slash_id))
    return {
        "statement_hash": probed.statement_hash,
        "evidence_hash": evidence_hash,
        "position": answer.sequence,
    }


@router.post("/slashes/{slash_id}/evidence", summary="Evidence that proves itself", response_model=None)
async def evidence(slash_id: SlashId, request: Request, here: Here, who: Caller) -> dict[str, Any]:
    """The first evidence from which a breach follows is the one that is voted on.

    Of what only a recomputation can judge, the reporter's or an operator's: the accused could send its own
    receipts with other tokens, from which nothing follows, before anybody else's.
    """
    body = await request.body()
    if len(body) > MAX_BYTES:
        raise RequestTooLarge(f"Evidence has at most {MAX_BYTES} bytes.")
    case = (await known(here, slash_id)).report
    judged = judge_case(body, known_slash_id(slash_id), case)
    if isinstance(judged, Dissent):
        raise EvidenceUnproven(judged.reason)
    if isinstance(judged, Open) and not (who and (who.is_operator or reporter_of(who) == case.reporter)):
        raise EvidenceNotTheReporters
    added = slash.EvidenceAdded(here.blobs.put(body), len(body))
    answer = await tell(here, known_slash_id(slash_id), slash.AddEvidence(added))
    return {"evidence_hash": added.evidence_hash, "position": answer.sequence}


@router.post("/slashes/{slash_id}/votes", summary="An attestor's signed vote", response_model=None)
async def votes(slash_id: SlashId, request: Request, here: Here, _: Caller) -> dict[str, Any]:
    vote = _decoded(await request.body(), VoteCast)
    case = (await known(here, slash_id)).report
    if not signed_by(vote.attestor, vote_typed(case, known_slash_id(slash_id), vote), vote.signature):
        raise AttestationForged
    answer = await tell(here, known_slash_id(slash_id), slash.CastVote(vote, 0))
    stage = (await known(here, slash_id)).stage
    return {"stage": stage, "events": list(answer.events), "position": answer.sequence}


@router.get("/evidence/{evidence_hash}", summary="The bytes with this SHA-256", response_model=None)
async def body_of(evidence_hash: str, here: Here, _: Caller) -> Response:
    try:
        return Response(here.blobs.get(evidence_hash), media_type="application/json")
    except BlobMissing as missing:
        raise EvidenceUnknown from missing


async def _assemble(here: Gateway, slash_id: str) -> str | None:
    """The evidence's hash once there are enough statements; whoever comes first makes it."""
    state = await known(here, slash_id)
    if state.evidence is not None or len(state.said) < state.report.quorum:
        return None if state.evidence is None else state.evidence.evidence_hash
    try:
        said = [msgspec.json.decode(here.blobs.get(name), type=Statement) for name in state.said.values()]
    except BlobMissing as missing:
        log.warning("statement_missing", slash_id=slash_id, why=str(missing))
        return None
    body = assembled(slash_id, state.report, tuple(said))
    judged = judge_case(body, slash_id, state.report)
    if isinstance(judged, Dissent):
        raise EvidenceUnproven(judged.reason)
    added = slash.EvidenceAdded(here.blobs.put(body), len(body))
    try:
        await tell(here, slash_id, slash.AddEvidence(added))
    except RemoteRefusal as refused:
        if refused.code != refusals.EvidenceDiffers.code:
            raise
        return await _assemble(here, slash_id)
    return added.evidence_hash


def _decoded(body: bytes, shape: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as broken:
        raise InvalidRequest(f"The body is no {shape.__name__}: {broken}") from broken
