"""Lets a request through: a key of the right kind and scope, within its budget. Knows no route."""

from collections.abc import Coroutine
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse

from services.keeper.runner_http.answers import Refused, coded, worded
from services.keeper.runner_http.keys import PREFIXES, AccessKey, AccessKeys, Kind, Scope
from services.keeper.runner_http.limits import Budget, Limit

WHAT: dict[Kind, str] = {
    "organisation": "an organisation's key (kh_) for REST and MCP",
    "webhook": "a user's key (wfb_) for webhooks",
}


async def allowed(
    request: Request, scope: Scope, work: Coroutine[Any, Any, Any], kind: Kind = "organisation"
) -> JSONResponse:
    """What `work` gives, or why not, with the caller's budget in the headers."""
    limit: Limit = request.app.state.limit
    budget: Budget | None = None
    try:
        key = authenticated(request, kind)
        budget = limit.take(key.id)
        if budget.retry_after_s is not None:
            raise coded(429, "rate_limited", f"more than {budget.limit} requests a minute")
        if not key.may(scope):
            raise coded(403, "insufficient_scope", f"this key has {key.scope}, and {scope} is needed")
        answer = JSONResponse(await work)
    except Refused as refused:
        answer = JSONResponse(refused.body, refused.status, refused.headers)
    finally:
        work.close()
    if budget is not None:
        answer.headers.update(budget.headers)
    return answer


def authenticated(request: Request, kind: Kind) -> AccessKey:
    """Raises Refused: 401."""
    keys: AccessKeys = request.app.state.keys
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    token = token.strip() if scheme.lower() == "bearer" else ""
    key = keys.find(token) if token else None
    if key is None or key.kind != kind:
        other = next((k for k, prefix in PREFIXES.items() if k != kind and token.startswith(prefix)), None)
        if other is not None:
            raise worded(
                401,
                f"Wrong API key type. This path needs {WHAT[kind]}, and was given {WHAT[other]}.",
                code="wrong_key_type",
                expected=f"{PREFIXES[kind]}*",
                received=f"{PREFIXES[other]}*",
                hint=f"computepool keeper make-key --kind {kind}",
            )
        raise coded(401, "unauthorized", "Missing or invalid authentication")
    return key
