"""Who asks: the bearer token of a request, turned into a principal; decides nothing about payments.

What each route wants is one of three dependencies: `Caller` (anyone, but a wrong token is refused),
`Payer` (an API key or an operator), `Operator`. The matrix is docs/security.md, and a test walks it.
"""

from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from services.credentials import Principal
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
    principal = await here.credentials.verify(sent.credentials)
    if principal is None:
        raise InvalidApiKey
    return principal


async def _payer(caller: Annotated[Principal | None, Depends(_caller)]) -> Principal:
    if caller is None:
        raise MissingApiKey
    return caller


async def _operator(payer: Annotated[Principal, Depends(_payer)]) -> Principal:
    if not payer.is_operator:
        raise OperatorOnly
    return payer


Caller = Annotated[Principal | None, Depends(_caller)]
Payer = Annotated[Principal, Depends(_payer)]
Operator = Annotated[Principal, Depends(_operator)]
