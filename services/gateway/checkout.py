"""Where a request meets money: which session pays for it, and the 402 that says what is to be paid.

Knows x402's headers and this gateway's sessions; how a payment is taken stands in `till`.
"""

from dataclasses import dataclass, field

from fastapi import Request

from events import session
from events.shares import WEI_PER_MICRO
from services.credentials import Principal
from services.facilitator.settle import SettlementPending
from services.facilitator.shapes import (
    REQUIRED,
    RESPONSE,
    SIGNATURE,
    Required,
    Resource,
    Settlement,
    as_header,
)
from services.gateway import session_keys
from services.gateway.quotes import Wanted
from services.gateway.refusals import (
    InvalidApiKey,
    MissingApiKey,
    ModelNotFound,
    PaymentRequired,
    PoolUnavailable,
    SettlementUnknown,
)
from services.gateway.request_id import current_request_id
from services.gateway.routing import Route
from services.gateway.state import Gateway
from services.gateway.till import NO_RETRY, SESSION_HEADER, Offer, Paid, PaymentRefused

DIRECT_TTL_S = 900
"""A session that a generating request opened closes by itself after so long."""
DIRECT_SECONDS = 1200
"""So many seconds of one request such a session's voucher covers."""


@dataclass(frozen=True)
class Standing:
    """Who pays for a request. `session_id` None: the request opens a session of its own, on a free pool.

    `headers` go on the answer.
    """

    payer: str
    session_id: str | None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Purchase:
    """What a route sells: how long the session lasts, and what its voucher covers."""

    ttl_s: int = DIRECT_TTL_S
    seconds: int = DIRECT_SECONDS
    budget_micro: int | None = None


async def standing_of(
    here: Gateway, request: Request, route: Route, who: Principal | None, session_id: str | None
) -> Standing:
    """For a generating request, once nothing else can be refused. Raises MissingApiKey, InvalidApiKey,
    PaymentRequired and what `buy` raises.
    """
    if route.is_free:
        return Standing(known(request, who).payer, session_id)
    check_paying(route)
    if session_id is not None:
        payer = await open_payer(here, session_id)
        if payer is not None:
            return Standing(payer, session_id)
    paid = await buy(here, request, route, Purchase())
    return Standing(paid.payer, paid.session_id, headers_of(here, paid))


async def admit(here: Gateway, request: Request, who: Principal | None, model: str) -> None:
    """Before anything else of a request is looked at: a stranger only gets further where money is taken.

    Raises MissingApiKey, InvalidApiKey.
    """
    if who is None:
        try:
            sold = not (await here.routing.of_model(model)).is_free
        except ModelNotFound:
            sold = False
        if not sold:
            known(request, who)


def known(request: Request, who: Principal | None) -> Principal:
    """Raises MissingApiKey, InvalidApiKey."""
    if who is None:
        raise InvalidApiKey if "authorization" in request.headers else MissingApiKey
    return who


async def open_payer(here: Gateway, session_id: str) -> str | None:
    """Who pays in this session; None: it takes no more requests."""
    history = await here.events.history("session", session_id)
    state = session.session.fold(item.event for item in history.recorded)
    if not isinstance(state, session.OpenSession) or state.closing is not None or state.settlement is None:
        return None
    return state.terms.payer


def check_paying(route: Route) -> None:
    """Before anybody is asked to pay, and before an open session starts what it could not pay for.

    Raises PoolUnavailable.
    """
    if route.over:
        text = f"{route.name}'s coalition has ended its epoch; nobody can be paid until it opens another."
        raise PoolUnavailable(text)


async def buy(here: Gateway, request: Request, route: Route, purchase: Purchase) -> Paid:
    """The session that the request's payment opened. Raises PaymentRequired with an offer when there is no
    payment or it does not hold, PaymentAlreadyUsed, SettlementUnknown, PoolUnavailable, ChainAwayProblem,
    InvalidRequest.
    """
    check_paying(route)
    if route.coalition is None or route.gda_pool is None:
        raise PoolUnavailable(f"{route.name} has a price, and no coalition that could be paid yet.")
    if int(route.price_wei_per_s) % WEI_PER_MICRO:
        raise PoolUnavailable(f"{route.name}'s price is no multiple of {WEI_PER_MICRO} wei per second.")
    header = request.headers.get(SIGNATURE)
    if header is None:
        raise await _asking(here, request, route, purchase, None)
    try:
        paid = await here.till.pay(header, route.pool_id, current_request_id())
    except PaymentRefused as refused:
        raise await _asking(here, request, route, purchase, refused) from refused
    except SettlementPending as pending:
        answer = Settlement(False, "", f"eip155:{here.settings.chain_id}", error_reason=pending.code)
        raise SettlementUnknown(str(pending), headers={RESPONSE: as_header(answer), **NO_RETRY}) from pending
    request.state.paid = headers_of(here, paid)
    return paid


async def _asking(
    here: Gateway, request: Request, route: Route, purchase: Purchase, refused: PaymentRefused | None
) -> PaymentRequired:
    offer = await here.till.offer(
        Wanted(
            route.pool_id,
            route.coalition or "",
            int(route.price_wei_per_s),
            route.kv_slots,
            purchase.ttl_s,
            purchase.seconds,
            purchase.budget_micro,
        )
    )
    network = offer.requirements.network
    headers = {REQUIRED: as_header(_required(request, route, offer, refused))}
    if refused is not None:
        answer = Settlement(False, "", network, None, None, refused.reason, refused.detail)
        headers[RESPONSE] = as_header(answer)
    detail = (
        f"The payment does not hold ({refused})."
        if refused is not None
        else f"{route.name} costs {route.price_wei_per_s} wei per second and request in flight; the voucher"
        f" is of {offer.requirements.amount} micro-USDC, and what is not used is refunded."
    )
    return PaymentRequired(detail, headers=headers)


def _required(request: Request, route: Route, offer: Offer, refused: PaymentRefused | None) -> Required:
    what = Resource(str(request.url), f"A session of {route.name}, paid by the second", "application/json")
    error = refused.reason if refused is not None else "payment_required"
    return Required(error, what, (offer.requirements,))


def headers_of(here: Gateway, paid: Paid) -> dict[str, str]:
    """What a payer learns with the answer: what became of the payment, and the session it opened."""
    settled = Settlement(True, paid.transaction, paid.network, paid.payer, paid.micro)
    return {
        RESPONSE: as_header(settled),
        SESSION_HEADER: paid.session_id,
        session_keys.HEADER: session_keys.key_of(here.till.secret, paid.session_id),
    }
