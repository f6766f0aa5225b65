"""Every refusal a client may see: one table from code to HTTP status, and the two shapes it is written
in.

RFC 9457 `problem+json` outside `/v1`, OpenAI's error envelope inside. Knows nothing of why anything is
refused.
"""

from typing import Any, ClassVar, NamedTuple

from fastapi.responses import JSONResponse

from events.envelope import rejections
from events.kernel import Rejected
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
    "model_does_not_fit": Answered(409, False),
    "session_already_open": Answered(409, False),
    "session_unknown": Answered(404, False),
    "session_closed": Answered(409, False),
    "session_busy": Answered(409, True),
    "not_the_payer": Answered(403, False),
    "not_the_entry": Answered(409, False),
    "request_already_ended": Answered(409, False),
}
"""The one table. A code that is not here may not leave the gateway (a test walks them all)."""


class Problem(Exception):
    """A refusal of the gateway itself; `param` names the field of the request it is about."""

    code: ClassVar[str] = "internal_error"
    remedy: ClassVar[str] = "Tell the operator the request id."

    def __init__(
        self, detail: str = "", *, param: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(detail or (self.__doc__ or "").strip())
        self.param = param
        self.headers = headers or {}


class InvalidRequest(Problem):
    """The request does not have the documented shape."""

    code = "invalid_request"
    remedy = "Correct the named field; the shapes are at /docs."


class InvalidJson(Problem):
    """The body is not JSON."""

    code = "invalid_json"
    remedy = "Send a JSON object with content-type application/json."


class UnsupportedParameter(Problem):
    """The request asks for something this gateway does not serve."""

    code = "unsupported_parameter"
    remedy = "Leave the parameter out."


class ContextLengthExceeded(Problem):
    """Prompt and completion together are longer than the model's context."""

    code = "context_length_exceeded"
    remedy = "Shorten the messages or lower max_completion_tokens."


class ChatTemplateRefused(Problem):
    """The model's chat template does not accept these messages."""

    code = "chat_template_refused"
    remedy = "Use the roles and the order that the model was trained with."


class LimitTooLarge(Problem):
    """`limit` is larger than a page may be; it is never trimmed silently."""

    code = "limit_too_large"
    remedy = "Ask for at most 200 and follow the cursor."


class RequestTooLarge(Problem):
    """The body is larger than this gateway reads."""

    code = "request_too_large"
    remedy = "Send a smaller body."


class RouteNotFound(Problem):
    """There is nothing at this address."""

    code = "route_not_found"
    remedy = "The routes are listed at /docs."


class MethodNotAllowed(Problem):
    """This address does not take that method."""

    code = "method_not_allowed"
    remedy = "The routes are listed at /docs."


class MissingApiKey(Problem):
    """No credential was sent."""

    code = "missing_api_key"
    remedy = "Send `Authorization: Bearer cp_...`; the operator issues keys with `computepool keys create`."


class InvalidApiKey(Problem):
    """The credential is unknown or was revoked."""

    code = "invalid_api_key"
    remedy = "Use a key that the operator issued and has not revoked."


class OperatorOnly(Problem):
    """This route manages the network and needs an operator token."""

    code = "operator_only"
    remedy = "Use the operator token that the first start showed."


class PaymentRequired(Problem):
    """This pool has a price, and payments arrive in a later release."""

    code = "payment_required"
    remedy = "Use a pool whose price_wei_per_s is 0."


class CredentialUnknown(Problem):
    """No API key has this id."""

    code = "credential_unknown"
    remedy = "Use the id that POST /keys answered."


class IdempotencyConflict(Problem):
    """This Idempotency-Key was used for another body."""

    code = "idempotency_conflict"
    remedy = "Use a new key for new work; repeat the exact body to repeat the old."


class IdempotencyInProgress(Problem):
    """The first request with this Idempotency-Key has not been answered yet."""

    code = "idempotency_in_progress"
    remedy = "Send the same request again in a moment."


class InvalidIdempotencyKey(Problem):
    """An Idempotency-Key is 1 to 128 printable ASCII characters."""

    code = "invalid_idempotency_key"
    remedy = "Use a UUID, or an id derived from the work."


class NotYetProjected(Problem):
    """The read model has not reached the position of `at_least` in time."""

    code = "not_yet_projected"
    remedy = "Ask again; if it lasts, see the projector's lag at /readyz."


class ChallengeInvalid(Problem):
    """The registration challenge is unknown, expired or already used."""

    code = "challenge_invalid"
    remedy = "Take a new one from POST /nodes/challenges and sign it within its time."


class RegistrationForged(Problem):
    """A signature of the registration does not verify."""

    code = "registration_forged"
    remedy = "All four keys must sign the same EIP-712 digest; see docs/api.md, Registration."


class AcceptanceForged(Problem):
    """The consent is not signed by the node's receipt key."""

    code = "acceptance_forged"
    remedy = "Sign the PoolAcceptance typed data of this pool with the node's receipt key."


class PoolNameTaken(Problem):
    """A pool with this name exists; clients choose a model by that name."""

    code = "pool_name_taken"
    remedy = "Choose another name, or retire the old pool first."


class ModelUnreadable(Problem):
    """The gateway can't read the model's directory: it needs config.json, safetensors and a tokenizer."""

    code = "model_unreadable"
    remedy = "Put the model below one of COMPUTEPOOL_MODEL_DIRS on the gateway's machine."


class ModelNotFound(Problem):
    """No pool serves a model of this name."""

    code = "model_not_found"
    remedy = "GET /v1/models lists what is served."


class SessionNotOfPool(Problem):
    """The session was opened for another pool."""

    code = "session_not_of_pool"
    remedy = "Open a session for this model, or leave the header out."


class PoolUnavailable(Problem):
    """A shard of this pool is not answering."""

    code = "pool_unavailable"
    remedy = "Try again in a few seconds; /readyz names the shard."


class TooManyRequests(Problem):
    """Every slot is taken and the queue is full."""

    code = "too_many_requests"
    remedy = "Wait as long as Retry-After says."


class KvExhausted(Problem):
    """A shard has no room for another request's cache."""

    code = "kv_exhausted"
    remedy = "Wait as long as Retry-After says."


class ShardLost(Problem):
    """A shard of the ring went away during the generation."""

    code = "shard_lost"
    remedy = "Send the request again; nothing of it is kept."


class TokensLost(Problem):
    """Tokens were lost between the entry node and the gateway; the rest would have had a hole."""

    code = "tokens_lost"
    remedy = "Send the request again."


class Deadline(Problem):
    """The generation was not finished in its time."""

    code = "deadline"
    remedy = "Ask for fewer tokens, or try again when the pool is less busy."


class GenerationCancelled(Problem):
    """The generation was cancelled by the network."""

    code = "generation_cancelled"
    remedy = "Send the request again."


class GenerationFailed(Problem):
    """The ring could not finish the generation."""

    code = "generation_failed"
    remedy = "Send the request again; if it lasts, tell the operator the request id."


class GatewayStopping(Problem):
    """The gateway is shutting down."""

    code = "gateway_stopping"
    remedy = "Send the request again in a few seconds."


class TooManyFeeds(Problem):
    """Too many clients follow the feed."""

    code = "too_many_feeds"
    remedy = "Close a feed, or wait."


class LogUnavailableProblem(Problem):
    """The event log does not answer."""

    code = "log_unavailable"
    remedy = "Try again; /readyz names the failing part."


class OrchestratorAwayProblem(Problem):
    """The orchestrator did not answer in time; what was asked may or may not have happened."""

    code = "orchestrator_away"
    remedy = "Send it again with the same Idempotency-Key; see `computepool ps`."


class LogHalted(Problem):
    """The event log disagrees with what was known of it, so nothing is written or read on."""

    code = "log_halted"
    remedy = "An auditor must look at the log: computepool audit verify."


class ReadModelUnavailable(Problem):
    """The read model does not answer."""

    code = "read_model_unavailable"
    remedy = "Try again; /readyz names the failing part."


class InternalError(Problem):
    """The gateway made a mistake."""


class RemoteRefusal(Exception):
    """A refusal that reached the gateway as a code: from the orchestrator's answer or from a shard."""

    def __init__(self, code: str, detail: str, remedy: str) -> None:
        super().__init__(detail)
        self.code, self.remedy = code, remedy


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
