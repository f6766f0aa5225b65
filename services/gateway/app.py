"""The application: routes, the layers around them, and how every refusal becomes an answer; decides
nothing.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from nats.errors import Error as NatsError
from pydantic_core import PydanticSerializationError
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from events.envelope import MalformedCommit, UnknownEventType
from events.kernel import Rejected
from services import bus
from services.blobs import Blobs
from services.control import OrchestratorAway
from services.credentials import Credentials, engine_of
from services.database import database_url
from services.gateway import (
    attestations,
    coalition_runs,
    coalitions,
    feed,
    health,
    keys,
    ledger,
    meters,
    nodes,
    openai,
    openai_completions,
    page,
    pools,
    problems,
    receipts,
    refusals,
    runs,
    seat_consents,
    sessions,
    slashes,
    webhooks,
)
from services.gateway.gone import ClientGone, cancel_all
from services.gateway.heartbeats import Heartbeats
from services.gateway.idempotency import Idempotency
from services.gateway.metrics import Metrics
from services.gateway.request_id import BoundedBody, RequestId
from services.gateway.routing import Routing
from services.gateway.secret import Secret
from services.gateway.slots import Slots
from services.gateway.state import Gateway
from services.gateway.templates import Templates
from services.gateway.till import NO_RETRY, Till
from services.keeper.hook_secret import HookSecret
from services.keeper.inbox import Inbox
from services.log import CommitIdReused, EventLog, Gap, LogRolledBack, LogUnavailable, Writer
from services.readmodel import ReadModel, ReadModelAway
from services.settings import Settings

log = structlog.get_logger("gateway")


async def open_gateway(settings: Settings) -> Gateway:
    """Connect to everything. Raises what the connections raise."""
    url = database_url(settings)
    client = await bus.connect(settings, "gateway")
    events = await EventLog.open(client, Writer.load(settings.seeds_dir / "gateway.nk"))
    rows = await ReadModel.open(url)
    engine = engine_of(url)
    heartbeats = Heartbeats()
    await heartbeats.listen(client)
    secret = Secret.load_or_make(settings.state_dir / "keys" / "gateway.secret")
    return Gateway(
        settings=settings,
        client=client,
        events=events,
        rows=rows,
        engine=engine,
        credentials=Credentials(engine),
        idempotency=Idempotency(engine),
        heartbeats=heartbeats,
        templates=Templates(settings.model_dirs),
        routing=Routing(rows, events),
        metrics=Metrics(),
        slots=Slots(settings.max_requests_in_flight),
        till=Till(settings, events, engine, secret),
        blobs=Blobs(settings.state_dir / "blobs"),
        hooks=HookSecret.of(settings),
        inbox=Inbox(engine),
    )


def create_app(settings: Settings) -> FastAPI:
    """Everything is opened when the application starts and closed when it stops; nothing is global."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.gateway = await open_gateway(settings)
        warming = asyncio.create_task(_warm(app.state.gateway))
        resuming = asyncio.create_task(app.state.gateway.till.resume())
        log.info("ready")
        try:
            yield
        finally:
            await cancel_all(warming, resuming)
            await app.state.gateway.close()
            log.info("stopped")

    app = FastAPI(
        title="ComputePool",
        version="0.1.0",
        summary="One inference endpoint made of many small GPUs, with every transition auditable",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    for room in (
        openai,
        openai_completions,
        sessions,
        receipts,
        meters,
        ledger,
        pools,
        coalitions,
        coalition_runs,
        seat_consents,
        runs,
        slashes,
        attestations,
        nodes,
        keys,
        webhooks,
        feed,
        health,
        page,
    ):
        app.include_router(room.router)
    app.add_middleware(
        BoundedBody, max_bytes=settings.max_body_bytes, too_large=_too_large, too_deep=_too_deep
    )
    app.add_middleware(RequestId, mistake=_mistake)
    _answer_refusals(app)
    return app


async def _warm(here: Gateway) -> None:
    """Tokenizers of what is served already, so that no request waits for them."""
    models: list[str] = []
    with suppress(ReadModelAway):
        models = [
            row["model"] for row in (await here.rows.pools(None, 100)).items if row["status"] == "active"
        ]
    await here.templates.warm(models)


async def _too_large(scope: Scope, receive: Receive, send: Send) -> None:
    refusal = refusals.RequestTooLarge(headers={"connection": "close"})
    await problems.response(refusal, scope["path"])(scope, receive, send)


async def _too_deep(scope: Scope, receive: Receive, send: Send) -> None:
    await problems.response(refusals.InvalidJson(), scope["path"])(scope, receive, send)


async def _mistake(scope: Scope, receive: Receive, send: Send) -> None:
    await problems.response(refusals.InternalError(), scope["path"])(scope, receive, send)


def _answer_refusals(app: FastAPI) -> None:
    def answer(request: Request, refusal: problems.Refusal) -> Response:
        if request.app.state._state.get("gateway") is not None:
            request.app.state.gateway.metrics.refusals.labels(refusal.code).inc()
        answered = problems.response(refusal, request.url.path)
        paid = getattr(request.state, "paid", None)
        if paid is not None:
            answered.headers.update({**paid, **NO_RETRY})
        return answered

    @app.exception_handler(refusals.Problem)
    @app.exception_handler(Rejected)
    @app.exception_handler(refusals.RemoteRefusal)
    async def refused(request: Request, refusal: Any) -> Response:
        return answer(request, refusal)

    @app.exception_handler(ClientGone)
    async def gone(request: Request, _: Exception) -> Response:
        return Response(status_code=499)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, failure: RequestValidationError) -> Response:
        return answer(request, _first_error(failure))

    @app.exception_handler(UnicodeEncodeError)
    @app.exception_handler(PydanticSerializationError)
    async def not_text(request: Request, _: Exception) -> Response:
        return answer(request, refusals.InvalidRequest("A text is not valid Unicode."))

    @app.exception_handler(HTTPException)
    async def http(request: Request, failure: HTTPException) -> Response:
        match failure.status_code:
            case 404:
                return answer(request, refusals.RouteNotFound(f"{request.method} {request.url.path}"))
            case 405:
                return answer(request, refusals.MethodNotAllowed(headers=dict(failure.headers or {})))
            case status if status < 500:
                return answer(request, refusals.InvalidJson())
            case _:
                return answer(request, refusals.InternalError(str(failure.detail)))

    @app.exception_handler(LogUnavailable)
    @app.exception_handler(NatsError)
    async def log_away(request: Request, failure: Exception) -> Response:
        log.warning("log_unavailable", why=repr(failure))
        return answer(request, refusals.LogUnavailableProblem())

    @app.exception_handler(OrchestratorAway)
    async def orchestrator_away(request: Request, _: Exception) -> Response:
        return answer(request, refusals.OrchestratorAwayProblem())

    for halted in (Gap, LogRolledBack, MalformedCommit, UnknownEventType, CommitIdReused):
        app.add_exception_handler(halted, log_halted)

    @app.exception_handler(SQLAlchemyError)
    async def database(request: Request, failure: SQLAlchemyError) -> Response:
        away = isinstance(failure, PoolTimeout) or (
            isinstance(failure, DBAPIError) and failure.connection_invalidated
        )
        log.error("database_failed", why=type(getattr(failure, "orig", failure)).__name__, away=away)
        return answer(request, refusals.ReadModelUnavailable())

    @app.exception_handler(ReadModelAway)
    async def read_model_away(request: Request, failure: ReadModelAway) -> Response:
        log.warning("read_model_away", why=str(failure)[:200])
        return answer(request, refusals.ReadModelUnavailable())


async def log_halted(request: Request, failure: Exception) -> Response:
    """The log itself is not as it must be: say so, and do nothing clever."""
    log.error("log_halted", why=repr(failure))
    return problems.response(refusals.LogHalted(str(failure)), request.url.path)


def _first_error(failure: RequestValidationError) -> refusals.Problem:
    """The first field that is wrong, named; never its value, which may be a prompt."""
    errors = failure.errors()
    if not errors:
        return refusals.InvalidRequest()
    first = errors[0]
    if first["type"] == "json_invalid":
        return refusals.InvalidJson()
    named = [str(step) for step in first["loc"] if step not in ("body", "query", "path", "header")]
    place = list(itertools.takewhile(lambda step: step != "str" and not set(step) & set("[("), named))
    return refusals.InvalidRequest(
        f"{'.'.join(place) or 'The body'}: {first['msg']}", param=".".join(place) or None
    )
