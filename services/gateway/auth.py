"""Who asks: the bearer token of a request, turned into a principal; decides nothing about payments.

What each route wants is one of five dependencies: `Caller` (anyone, but a wrong token is refused), `Buyer`
(anyone, who may pay instead), `Payer` (an API key, a paid session's key or an operator), `Accuser` (one of
the last two), `Operator`. The matrix is docs/security.md, and a test walks it.
"""

from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from events import session
from services.credentials import PREFIXES, Principal
from services.gateway import session_keys
from services.gateway.refusals import InvalidApiKey, MissingApiKey, OperatorOnly
from services.gateway.state import Gateway

_bearer = HTTPBearer(
    auto_error=False, scheme_name="token", description="An API key (cp_...) or operator token (cpo_...)."
)


def gateway_of(request: Request) -> Gateway:
    found: Gateway = request.app.state.gateway
    return found


Here = Annotated[Gateway, Depends(gateway_of)]


async def _caller(
    here: Here, request: Request, sent: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Principal | None:
    if sent is None:
        if "authorization" in request.headers:
            raise InvalidApiKey("The Authorization header is not of the form `Bearer TOKEN`.")
        return None
    principal = await _principal(here, sent.credentials)
    if principal is None:
        raise InvalidApiKey
    return principal


async def _buyer(
    here: Here, request: Request, sent: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Principal | None:
    """None also for a token that is none of ours: OpenAI's clients always send one."""
    ours = (*PREFIXES.values(), session_keys.PREFIX)
    if sent is not None and not sent.credentials.startswith(ours):
        return None
    return await _caller(here, request, sent)


async def _principal(here: Gateway, token: str) -> Principal | None:
    if not token.startswith(session_keys.PREFIX):
        return await here.credentials.verify(token)
    session_id = session_keys.session_of(here.till.secret, token)
    if session_id is None:
        return None
    history = await here.events.history("session", session_id)
    state = session.session.fold(item.event for item in history.recorded)
    if not isinstance(state, session.OpenSession | session.Closed):
        return None
    return Principal(session_id, "session", state.terms.payer)


async def _payer(caller: Annotated[Principal | None, Depends(_caller)]) -> Principal:
    if caller is None:
        raise MissingApiKey
    return caller


async def _operator(payer: Annotated[Principal, Depends(_payer)]) -> Principal:
    if not payer.is_operator:
        raise OperatorOnly
    return payer


async def _accuser(payer: Annotated[Principal, Depends(_payer)]) -> Principal:
    if not payer.is_operator and payer.kind != "session":
        raise OperatorOnly
    return payer


Caller = Annotated[Principal | None, Depends(_caller)]
Buyer = Annotated[Principal | None, Depends(_buyer)]
Payer = Annotated[Principal, Depends(_payer)]
Accuser = Annotated[Principal, Depends(_accuser)]
Operator = Annotated[Principal, Depends(_operator)]
