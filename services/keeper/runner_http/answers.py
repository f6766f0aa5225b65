"""The two shapes in which KeeperHub refuses, and which of its routes uses which. Knows no route's work.

`{error: code, detail, request_id}` is the documented one (KH: docs/api/errors.md); routes that run workflows
still answer the older `{error: text, code?}`.
"""

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from services.keeper.backend import BackendRefused

request_id: ContextVar[str] = ContextVar("keeper_request_id", default="")

IN_PROGRESS = (
    "A request with this Idempotency-Key is being taken. Send the same key again shortly; do not change it."
)
CONFLICT = "This Idempotency-Key was used with another input. Different work has a key of its own."


class Refused(Exception):
    """refused_as_keeperhub: a call of KeeperHub's API is refused with a status and a body of its form."""

    code = "refused_as_keeperhub"

    def __init__(
        self, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(f"{status} {body.get('code') or body.get('error')}")
        self.status = status
        self.body = dict(body)
        self.headers = dict(headers or {})


def coded(status: int, code: str, detail: str, **more: str) -> Refused:
    """The documented shape."""
    return Refused(status, {"error": code, "detail": detail, "request_id": request_id.get(), **more})


def worded(status: int, text: str, **more: Any) -> Refused:
    """The older shape."""
    return Refused(status, {"error": text, **more})


def of_backend(refused: BackendRefused, original: str | None = None) -> Refused:
    """What a backend refused. `original`: the execution that has the key."""
    status = refused.status or 400
    match refused.code:
        case "idempotency_conflict":
            return worded(409, CONFLICT, code=refused.code, originalExecutionId=original, retryable=False)
        case "idempotency_in_progress":
            return worded(409, IN_PROGRESS, code=refused.code, retryable=True)
        case _:
            return coded(status, refused.code, refused.detail)


def away(why: str) -> Refused:
    """Nobody knows whether the request was taken: the same again, under the same key."""
    found = coded(503, "internal_error", why[:200])
    found.headers["Retry-After"] = "1"
    return found
