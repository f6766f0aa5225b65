"""What the gateway itself refuses, each as a named fact with a code and a remedy; knows no HTTP status.

The status of every code stands in `problems.TABLE`, next to those of the aggregates' refusals (`events.*`).
"""

from typing import ClassVar


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
    """This pool has a price, and nothing was paid for this request; nothing was started."""

    code = "payment_required"
    remedy = "Sign the terms of the PAYMENT-REQUIRED header (x402 version 2) and send the request again."


class PaymentAlreadyUsed(Problem):
    """This payment has opened a session before; it opens no second one and does nothing here."""

    code = "payment_already_used"
    remedy = "Use the key of that session, or ask for it at POST /sessions/{session_id}/key."


class KeyRequestForged(Problem):
    """The request for a session's key is not signed by the account that paid for it, or is out of time."""

    code = "key_request_forged"
    remedy = (
        "Sign the SessionKey typed data (docs/api.md) with the payer's key and a deadline of a few minutes."
    )


class SettlementUnknown(Problem):
    """The payment's transfer is under way and its end is not known yet; do not pay again."""

    code = "settlement_pending"
    remedy = "Look at GET /sessions/{session_id} in a moment; POST /sessions/{session_id}/key gives its key."


class StreamNotStarted(Problem):
    """The session is paid, but its money stream did not start in time, so nothing was generated."""

    code = "stream_not_started"
    remedy = "Send the request again with the session's key; what is not used is refunded."


class BudgetUsedUp(Problem):
    """The session's voucher is used up, so the generation was stopped; what came until then was paid for."""

    code = "budget_used_up"
    remedy = "Pay for another session, with a larger budget_micro at POST /sessions."


class ChainAwayProblem(Problem):
    """The chain does not answer, so nothing can be paid."""

    code = "chain_away"
    remedy = "Try again in a moment; free pools work without the chain."


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


class UnsupportedArchitecture(Problem):
    """A model of this family can't be cut into shards; the detail says why."""

    code = "architecture_unsupported"
    remedy = "Choose a model of one of the families that the detail lists."


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


class CoalitionUnproven(Problem):
    """The chain does not show that this pool's coalition has opened an epoch for this plan."""

    code = "coalition_unproven"
    remedy = "computepool pools open-coalition opens what is missing, and tells it again."


class CoalitionTermsRefused(Problem):
    """No coalition can stand on these terms, or no epoch be opened with this."""

    code = "coalition_terms_refused"
    remedy = "Correct what the detail names; docs/operate.md lists the terms."


class ConsentRefused(Problem):
    """The coalition would not take this consent to a seat, or not now."""

    code = "consent_refused"
    remedy = "Sign the seat of the present plan anew: computepool operator consent."


class CoalitionUnconfirmed(Problem):
    """The coalition's epoch is on the chain, but not deep enough to count."""

    code = "coalition_unconfirmed"
    remedy = "Wait for a few blocks and send it again."


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
