"""What KeeperHub said, in one shape for both transports, and its two shapes of errors. Sends nothing."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from services.keeper.backend import BackendRefused
from services.keeper.hosted.keys import masked

CODE = re.compile(r"[a-z][a-z0-9_]*|[A-Z][A-Z0-9_]*")
BY_STATUS = {
    400: "invalid_input",
    401: "unauthorized",
    402: "payment_required",
    403: "forbidden",
    404: "not_found",
    409: "conflict",
    410: "workflow_disabled",
    413: "too_large",
    422: "invalid_input",
    429: "rate_limited",
}
MOST_DETAIL = 500
IN_PROGRESS = "idempotency_in_progress"


@dataclass(frozen=True)
class Reply:
    """`body`: the JSON; `usable` False: there was none, so nothing is known of what became of the request."""

    status: int
    body: Any
    usable: bool = True
    retry_after_s: float | None = None
    poll_hint_s: float | None = None
    request_id: str | None = None

    @property
    def answered(self) -> bool:
        return self.usable and 200 <= self.status < 300

    @property
    def passing(self) -> bool:
        """Whether the same request may fare better in a moment, and nothing is known of this one."""
        return self.status >= 500 or not self.usable


def refusal_of(reply: Reply) -> BackendRefused:
    """From `{error: code, detail, request_id}` or from the older `{error: text, code?}`."""
    body = reply.body if isinstance(reply.body, Mapping) else {}
    error = body.get("error")
    if isinstance(error, Mapping):
        body, error = {**body, **error}, error.get("message")
    said = error if isinstance(error, str) else ""
    if isinstance(body.get("code"), str):
        code = body["code"]
    elif CODE.fullmatch(said):
        code = said
    else:
        code = BY_STATUS.get(reply.status, f"http_{reply.status}")
    parts = [body.get("detail"), body.get("message"), said if said != code else None, body.get("hint")]
    detail = "; ".join(dict.fromkeys(part for part in parts if isinstance(part, str) and part))
    original = body.get("originalExecutionId")
    if isinstance(original, str):
        detail += f" (the key belongs to {original})"
    retryable = body.get("retryable")
    request_id = body.get("request_id")
    return BackendRefused(
        code,
        masked(detail)[:MOST_DETAIL] or f"status {reply.status}",
        status=reply.status,
        retryable=retryable if isinstance(retryable, bool) else reply.status == 429,
        request_id=request_id if isinstance(request_id, str) else reply.request_id,
        retry_after_s=reply.retry_after_s,
    )


def seconds(header: str | None, now_unix_s: float) -> float | None:
    """Of `Retry-After` and its like: a number, or a date."""
    if not header:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - now_unix_s)
    except (ValueError, TypeError):
        return None
