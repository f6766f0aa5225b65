"""Every refusal a client may see: one table from code to HTTP status, and the two shapes it is written
in.

RFC 9457 `problem+json` outside `/v1`, OpenAI's error envelope inside. Knows nothing of why anything is
refused.
"""

from typing import Any, NamedTuple

from fastapi.responses import JSONResponse

import services.gateway.callback_refusals  # noqa: F401  (problems too)
from events.envelope import rejections
from events.kernel import Rejected
from services.gateway import breach_refusals as breach_refusals
from services.gateway import receipt_refusals as receipt_refusals
from services.gateway.refusals import GenerationFailed, Problem, RemoteRefusal
from services.gateway.request_id import current_request_id

TYPE_PREFIX = "https://computepool.invalid/errors/"
"""`type` of a problem is this and its code; the page is docs/errors.md."""


class Answered(NamedTuple):
    """HTTP status of a code, and whether the same request may succeed when sent again unchanged."""

    status: int
    retryable: bool


TABLE: dict[str, Answered] = {
    # the request
    "invalid_request": Answered(400, False),
    "invalid_json": Answered(400, False),
    "unsupported_parameter": Answered(400, False),
    "context_length_exceeded": Answered(400, False),
    "chat_template_refused": Answered(400, False),
    "limit_too_large": Answered(400, False),
    "request_too_large": Answered(413, False),
    "route_not_found": Answered(404, False),
    "method_not_allowed": Answered(405, False),
    # who asks
    "missing_api_key": Answered(401, False),
    "invalid_api_key": Answered(401, False),
    "operator_only": Answered(403, False),
    "payment_required": Answered(402, False),
    "payment_already_used": Answered(409, False),
    "settlement_pending": Answered(402, False),
    "key_request_forged": Answered(403, False),
    "stream_not_started": Answered(503, True),
    "budget_used_up": Answered(409, False),
    "chain_away": Answered(503, True),
    "credential_unknown": Answered(404, False),
    # idempotency and freshness
    "idempotency_conflict": Answered(409, False),
    "idempotency_in_progress": Answered(409, True),
    "invalid_idempotency_key": Answered(400, False),
    "not_yet_projected": Answered(503, True),
    # joining
    "challenge_invalid": Answered(400, False),
    "registration_forged": Answered(400, False),
    "acceptance_forged": Answered(400, False),
    "pool_name_taken": Answered(409, False),
    "model_unreadable": Answered(400, False),
    "architecture_unsupported": Answered(400, False),
    # a generation
    "model_not_found": Answered(404, False),
    "session_not_of_pool": Answered(409, False),
    "pool_unavailable": Answered(503, True),
    "too_many_requests": Answered(429, True),
    "kv_exhausted": Answered(429, True),
    "shard_lost": Answered(503, True),
    "tokens_lost": Answered(503, True),
    "deadline": Answered(504, True),
    "generation_cancelled": Answered(503, True),
    "generation_failed": Answered(502, True),
    "gateway_stopping": Answered(503, True),
    "too_many_feeds": Answered(429, True),
    # parts of the house
    "coalition_unproven": Answered(409, False),
    "coalition_unconfirmed": Answered(409, True),
    "coalition_terms_refused": Answered(422, False),
    "consent_refused": Answered(409, False),
    "callback_forged": Answered(401, False),
    "callback_malformed": Answered(400, False),
    "callback_impossible": Answered(409, False),
    "callback_crowded": Answered(429, False),
    "callback_store_away": Answered(503, True),
    "log_unavailable": Answered(503, True),
    "log_halted": Answered(503, False),
    "read_model_unavailable": Answered(503, True),
    "orchestrator_away": Answered(503, True),
    "malformed_control": Answered(500, False),
    "internal_error": Answered(500, False),
    # refusals of the aggregates (events.*)
    "rejected": Answered(409, False),
    "node_already_registered": Answered(409, False),
    "node_unknown": Answered(404, False),
    "node_retired": Answered(409, False),
    "node_not_usable": Answered(409, False),
    "pool_already_proposed": Answered(409, False),
    "pool_unknown": Answered(404, False),
    "pool_retired": Answered(409, False),
    "plan_invalid": Answered(400, False),
    "member_not_accepted": Answered(409, False),
    "weights_differ": Answered(409, False),
    "pool_is_free": Answered(409, False),
    "coalition_differs": Answered(409, False),
    "coalition_epoch_stale": Answered(409, False),
    "model_does_not_fit": Answered(409, False),
    "accused_cannot_vote": Answered(403, False),
    "attestor_already_said": Answered(409, False),
    "breach_differs": Answered(409, False),
    "evidence_differs": Answered(409, False),
    "evidence_missing": Answered(409, False),
    "not_attestor": Answered(403, False),
    "slash_fact_inconsistent": Answered(409, False),
    "slash_terms_invalid": Answered(400, False),
    "slash_unknown": Answered(404, False),
    "votes_closed": Answered(409, False),
    "run_unknown": Answered(404, False),
    "run_differs": Answered(409, False),
    "session_already_open": Answered(409, False),
    "session_unknown": Answered(404, False),
    "session_closed": Answered(409, False),
    "session_busy": Answered(409, True),
    "payer_only": Answered(403, False),
    "receipts_unknown": Answered(404, False),
    "not_the_payer": Answered(403, False),
    "not_the_entry": Answered(409, False),
    "request_already_ended": Answered(409, False),
    "ending_inconsistent": Answered(409, False),
    "not_the_leaver": Answered(409, False),
    "payment_missing": Answered(402, False),
    "payment_unequal": Answered(409, False),
    "concurrency_exceeded": Answered(429, True),
    "stream_unknown": Answered(404, False),
    "stream_terms_differ": Answered(409, False),
    "stream_fact_inconsistent": Answered(409, False),
    "event_invalid": Answered(400, False),
    # breaches
    "attestation_forged": Answered(403, False),
    "evidence_not_the_reporters": Answered(403, False),
    "evidence_unproven": Answered(409, False),
    "evidence_unknown": Answered(404, False),
    "breach_terms_unknown": Answered(409, False),
    "seat_unknown": Answered(409, False),
}
"""The one table. A code that is not here may not leave the gateway (a test walks them all)."""


def problems() -> dict[str, type[Problem]]:
    """Every problem of the gateway by its code."""
    return {cls.code: cls for cls in Problem.__subclasses__()}


def of_code(code: str, detail: str = "") -> Problem:
    """The gateway's problem with this code; `generation_failed` for a shard's code that has no row of its
    own.
    """
    cls = problems().get(code)
    if cls is None:
        return GenerationFailed(f"{code}: {detail}" if detail else f"The ring ended it with {code}.")
    return cls(detail)


Refusal = Problem | Rejected | RemoteRefusal


def answered(code: str) -> Answered:
    """The row of a code; an unknown one counts as the gateway's own mistake."""
    return TABLE.get(code, Answered(500, False))


def problem_body(refusal: Refusal, request_id: str) -> dict[str, Any]:
    """RFC 9457 members plus code, request_id, retryable, remedy (and param when a field is to blame)."""
    row = answered(refusal.code)
    body: dict[str, Any] = {
        "type": TYPE_PREFIX + refusal.code,
        "title": title_of(refusal.code),
        "status": row.status,
        "detail": str(refusal),
        "code": refusal.code,
        "request_id": request_id,
        "retryable": row.retryable,
        "remedy": refusal.remedy,
    }
    if isinstance(refusal, Problem) and refusal.param is not None:
        body["param"] = refusal.param
    return body


def title_of(code: str) -> str:
    """One sentence that is the same for every occurrence of the code."""
    cls: type[Exception] | None = problems().get(code) or rejections().get(code)
    doc = (cls.__doc__ if cls is not None else None) or code.replace("_", " ").capitalize() + "."
    return " ".join(doc.split())


_TYPES = {
    401: "authentication_error",
    402: "payment_required",
    403: "permission_error",
    429: "rate_limit_error",
}


def envelope(refusal: Refusal) -> dict[str, Any]:
    """OpenAI's error envelope: message, type, param and code are always there."""
    status = answered(refusal.code).status
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {
        "error": {
            "message": f"{refusal} {refusal.remedy}",
            "type": kind,
            "param": refusal.param if isinstance(refusal, Problem) else None,
            "code": refusal.code,
        }
    }


def response(refusal: Refusal, path: str) -> JSONResponse:
    """The answer to a refused request, in the shape of the part of the API that `path` belongs to."""
    row = answered(refusal.code)
    headers = dict(refusal.headers) if isinstance(refusal, Problem) else {}
    if row.status == 401:
        headers["www-authenticate"] = "Bearer"
    if row.status in (429, 503) and row.retryable:
        headers.setdefault("retry-after", "2")
    if path == "/v1" or path.startswith("/v1/"):
        return JSONResponse(envelope(refusal), row.status, headers)
    body = problem_body(refusal, current_request_id())
    return JSONResponse(body, row.status, headers, media_type="application/problem+json")
