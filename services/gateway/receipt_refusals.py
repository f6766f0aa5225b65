"""What the gateway itself refuses about receipts; as `services.gateway.refusals`."""

from services.gateway.refusals import Problem


class PayerOnly(Problem):
    """Receipts are shown to whoever paid, with the session's key, and to nobody else."""

    code = "payer_only"
    remedy = "Ask with the session's key; its payer gets it again by POST /sessions/{session_id}/key."


class ReceiptsUnknown(Problem):
    """This session has had no such request, or its receipts are no longer kept."""

    code = "receipts_unknown"
    remedy = "GET /sessions/{session_id} lists its requests; receipts are kept for 30 days."
