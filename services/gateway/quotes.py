"""What a paid session costs and promises, as one x402 offer: written here, recognised later, never stored.

The offer's `extra` carries the escrow's whole terms and our MAC over everything, so the same offer in a
payment can be trusted word for word. Knows no chain and no payer.
"""

from dataclasses import dataclass
from typing import Any

import msgspec
from ulid import ULID

from events.shares import WEI_PER_MICRO
from services.facilitator.shapes import Requirements
from services.facilitator.verify import Token
from services.gateway.secret import Secret

PURPOSE = "quote"
OURS = "computepool"
"""The member of `extra` that is this project's."""
GOOD_FOR_S = 300
"""An offer may be paid for so long; the authorisation it asks for lives as long."""
LOCKED_S = 660
"""Superfluid's deposit of a running stream (600 s) and the escrow's margin: paid back, but needed."""
GRACE_S = 3600
"""So long after a session's end its escrow may still be opened and is nobody's to close but ours and the
payer's: a session that nobody asked in is refunded by opening and closing it."""
LEAST_S = 1
"""A shorter request pays for so long."""
MOST_CONCURRENT = 8
ANYBODY = "0x" + "00" * 20


class QuoteInvalid(Exception):
    """quote_invalid: the terms of a payment are no offer of ours, or it has expired; `reason` says which."""

    code = "quote_invalid"
    remedy = "Sign for the terms of the last 402, unchanged and in time."

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


class EscrowTermsJson(msgspec.Struct, frozen=True, rename="camel"):
    """`Terms` of ISessionEscrow.sol: integers as decimal strings, bytes as 0x-hex."""

    payer: str
    coalition: str
    rate: str
    min_cap: str
    cap: str
    min_seconds_per_request: str
    max_concurrent: str
    open_by: str
    close_by: str
    controller: str
    session_id: str

    def as_contract(self) -> tuple[Any, ...]:
        """In the order of the struct."""
        numbers = (self.rate, self.min_cap, self.cap, self.min_seconds_per_request)
        later = (self.max_concurrent, self.open_by, self.close_by)
        return (
            self.payer,
            self.coalition,
            *map(int, numbers),
            *map(int, later),
            self.controller,
            bytes.fromhex(self.session_id.removeprefix("0x")),
        )


def close_by_unix_ms(terms: EscrowTermsJson) -> int:
    """When the session takes no more requests."""
    return (int(terms.close_by) - GRACE_S) * 1000


class Quote(msgspec.Struct, frozen=True, rename="camel"):
    """What one voucher would buy. `session`: the id it will have."""

    session: str
    pool: str
    expires_unix_s: int
    terms: EscrowTermsJson

    @property
    def cap_micro(self) -> int:
        return int(self.terms.cap)

    @property
    def close_by_unix_ms(self) -> int:
        return close_by_unix_ms(self.terms)


@dataclass(frozen=True)
class Wanted:
    """What a caller wants to buy. `budget_micro` None: as much as `seconds` of one request cost."""

    pool_id: str
    coalition: str
    rate_wei_per_s: int
    slots: int
    ttl_s: int
    seconds: int
    budget_micro: int | None = None


def quote_of(wanted: Wanted, controller: str, least_micro: int, now_unix_s: int) -> Quote:
    """A new session's. The voucher is exactly `cap`: scheme `exact` knows no less.

    At once run only so many requests as it has deposits for: a stream that can't start ends the session.
    """
    session = ULID()
    wei = wanted.rate_wei_per_s * (wanted.seconds + LOCKED_S)
    cap = wanted.budget_micro or max(least_micro, -(-wei // WEI_PER_MICRO))
    affordable = cap * WEI_PER_MICRO // (wanted.rate_wei_per_s * (LOCKED_S + LEAST_S))
    concurrent = max(1, min(wanted.slots, MOST_CONCURRENT, affordable))
    close_by = now_unix_s + wanted.ttl_s + GRACE_S
    terms = EscrowTermsJson(
        payer=ANYBODY,
        coalition=wanted.coalition,
        rate=str(wanted.rate_wei_per_s),
        min_cap=str(cap),
        cap=str(cap),
        min_seconds_per_request=str(LEAST_S),
        max_concurrent=str(concurrent),
        open_by=str(close_by),
        close_by=str(close_by),
        controller=controller,
        session_id="0x" + int(session).to_bytes(32, "big").hex(),
    )
    expires = now_unix_s + GOOD_FOR_S
    return Quote(str(session).lower(), wanted.pool_id, expires, terms)


def offer(secret: Secret, token: Token, quote: Quote, escrow: str) -> Requirements:
    """The x402 terms of a quote, with our MAC."""
    extra = {
        "name": token.name,
        "version": token.version,
        "paymentFlow": "upfront",
        OURS: msgspec.to_builtins(quote),
    }
    made = Requirements("exact", token.network, token.address, quote.terms.cap, escrow, GOOD_FOR_S, extra)
    signed = {**extra, OURS: {**extra[OURS], "mac": secret.mac(PURPOSE, _content(made))}}
    return msgspec.structs.replace(made, extra=signed)


def recognised(secret: Secret, accepted: Requirements) -> Quote:
    """The quote of an offer that we wrote. Raises QuoteInvalid."""
    ours = accepted.extra.get(OURS)
    mac = ours.get("mac") if isinstance(ours, dict) else None
    if not isinstance(ours, dict) or not isinstance(mac, str):
        raise QuoteInvalid("terms_unknown", "the accepted terms are not an offer of this gateway")
    bare = {**accepted.extra, OURS: {key: value for key, value in ours.items() if key != "mac"}}
    if not secret.wrote(PURPOSE, _content(msgspec.structs.replace(accepted, extra=bare)), mac):
        raise QuoteInvalid("terms_tampered", "the accepted terms differ from what this gateway offered")
    return msgspec.convert(bare[OURS], Quote)


def check_use(quote: Quote, pool_id: str, now_unix_s: int) -> None:
    """Raises QuoteInvalid when it has expired, or was given for another pool."""
    if quote.pool != pool_id:
        raise QuoteInvalid("payment_for_another_pool", f"the terms are for pool {quote.pool}")
    if now_unix_s >= quote.expires_unix_s:
        raise QuoteInvalid("quote_expired", f"it was good until {quote.expires_unix_s}; it is {now_unix_s}")


def _content(terms: Requirements) -> bytes:
    """The same bytes for the same terms, in whatever order a client wrote them."""
    return msgspec.json.encode(terms, order="deterministic")
