"""What a paid session hears of its voucher: verified, settled, taken back by a reorg, used up, refunded.

The events, commands, refusals and states of `events.session` that free sessions never see. Knows nothing of
requests or of streams.
"""

from dataclasses import dataclass
from typing import Literal

import msgspec

from events.chain import ChainRef, EscrowTerms
from events.kernel import Address, Event, Hash, Rejected, Wei

CloseReason = Literal["payer", "single_request", "budget", "start_failed", "on_chain"]


class PaymentVerified(Event, frozen=True, tag="session.payment_verified.v1"):
    """A voucher (one EIP-3009 authorisation, `nonce`) holds; its money has not moved yet.

    At most `max_concurrent` requests may be in flight at once.
    """

    asset: Address
    nonce: Hash
    terms: EscrowTerms
    max_concurrent: int
    single_request: bool
    close_by_unix_ms: int


class PaymentSettled(Event, frozen=True, tag="session.payment_settled.v1"):
    """The voucher's amount is at the escrow's address."""

    amount_wei: Wei
    at: ChainRef


class PaymentReverted(Event, frozen=True, tag="session.payment_reverted.v1"):
    """With `at`: a reorg took this settlement of `amount_wei` back, and it may come again.

    Without: it never will.
    """

    code: str
    amount_wei: Wei
    at: ChainRef | None = None


class CloseRequested(Event, frozen=True, tag="session.close_requested.v1"):
    """No more requests in this paid session; its stream stops for good and the rest is refunded."""

    reason: CloseReason


PaymentEvent = PaymentVerified | PaymentSettled | PaymentReverted | CloseRequested


class VerifyPayment(msgspec.Struct, frozen=True):
    verified: PaymentVerified


class ConfirmPayment(msgspec.Struct, frozen=True):
    at: ChainRef


class RevertPayment(msgspec.Struct, frozen=True):
    """The chain no longer has this settlement."""

    at: ChainRef


class FailPayment(msgspec.Struct, frozen=True):
    """The voucher can't be settled any more."""

    code: str


class RequestClose(msgspec.Struct, frozen=True):
    reason: CloseReason


class SettlePayment(msgspec.Struct, frozen=True):
    """The escrow is closed and every wei of the voucher is accounted for."""

    paid_wei: Wei
    refund_wei: Wei


PaymentCommand = VerifyPayment | ConfirmPayment | RevertPayment | FailPayment | RequestClose | SettlePayment


class PaymentMissing(Rejected):
    """The pool has a price and no settled voucher stands behind this session."""

    code = "payment_missing"
    remedy = "Pay first: answer the 402 with a signed voucher."


class PaymentUnequal(Rejected):
    """The refund and what operators received do not add up to the session's voucher."""

    code = "payment_unequal"
    remedy = "Find the missing or false receipt: compare the escrow's log with the event log."


class ConcurrencyExceeded(Rejected):
    """As many requests as the voucher allows are already in flight."""

    code = "concurrency_exceeded"
    remedy = "Wait until one ends, or open another session."


@dataclass(frozen=True)
class Paying:
    """A verified voucher; `settlement` stands only between two events of one commit."""

    voucher: PaymentVerified
    settlement: ChainRef | None = None


@dataclass(frozen=True)
class Unpaid:
    """The voucher was never settled, and never will be: nothing was moved."""

    voucher: PaymentVerified
