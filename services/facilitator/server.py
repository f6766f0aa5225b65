"""The facilitator's HTTP: POST /verify, POST /settle, GET /supported, as x402 version 2 describes them.

Knows nothing of how a payment is checked.
"""

from typing import Any

import msgspec
import structlog
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from services.chain.rpc import ChainAway, RpcRefused
from services.facilitator.settle import Facilitator, SettlementPending
from services.facilitator.shapes import FacilitatorRequest, NotX402, Settlement, Verified, decoded
from services.facilitator.verify import PaymentInvalid

log = structlog.get_logger("facilitator")
LARGEST_BODY = 65_536


def supported(facilitator: Facilitator) -> dict[str, Any]:
    """What /supported answers."""
    network = facilitator.token.network
    return {
        "kinds": [{"x402Version": 2, "scheme": "exact", "network": network}],
        "extensions": [],
        "signers": {"eip155:*": [facilitator.sender.key.address]},
    }


def create_app(facilitator: Facilitator) -> FastAPI:
    app = FastAPI(title="ComputePool facilitator", version="0.1.0", docs_url=None, redoc_url=None)

    @app.get("/supported")
    async def kinds() -> dict[str, Any]:
        return supported(facilitator)

    @app.post("/verify", response_model=None)
    async def verify(request: Request) -> Response:
        asked = await _asked(request)
        payer = asked.payment_payload.payload.authorization.source
        try:
            payer = await facilitator.verify(asked.payment_payload, asked.payment_requirements)
        except PaymentInvalid as invalid:
            return _json(Verified(False, invalid.reason, invalid.detail, payer))
        return _json(Verified(True, payer=payer))

    @app.post("/settle", response_model=None)
    async def settle(request: Request) -> Response:
        asked = await _asked(request)
        given, network = asked.payment_payload.payload.authorization, facilitator.token.network
        try:
            at = await facilitator.settle_once(asked.payment_payload, asked.payment_requirements)
        except PaymentInvalid as invalid:
            why = invalid.reason, invalid.detail
        except SettlementPending as pending:
            why = pending.code, str(pending)
        else:
            log.info("settled", transaction=at.tx, payer=given.source, amount=given.value)
            return _json(Settlement(True, at.tx, network, given.source, given.value))
        log.info("not_settled", why=why, payer=given.source)
        return _json(Settlement(False, "", network, given.source, None, *why))

    @app.exception_handler(NotX402)
    async def not_x402(_: Request, broken: Exception) -> Response:
        return JSONResponse({"error": "invalid_request", "message": str(broken)}, 400)

    @app.exception_handler(ChainAway)
    @app.exception_handler(RpcRefused)
    async def chain_away(_: Request, away: Exception) -> Response:
        log.warning("chain_away", why=str(away))
        message = "The chain does not answer."
        return JSONResponse({"error": "chain_away", "message": message}, 503, {"retry-after": "2"})

    return app


async def _asked(request: Request) -> FacilitatorRequest:
    """Raises NotX402."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > LARGEST_BODY:
            raise NotX402(f"a body of more than {LARGEST_BODY} bytes")
    return decoded(body, FacilitatorRequest)


def _json(answer: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(answer), media_type="application/json")
