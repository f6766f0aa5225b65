"""Well-formed facts of money for tests, with amounts and hashes made of small numbers; knows no test."""

from typing import Any

from events import payment, session, stream
from events.chain import ChainRef, EscrowTerms, Share
from tests.aggregates import FAR_FUTURE_MS, digest, ulid

RATE = 50 * 10**12
CAP = 2 * 10**18
PAYER = "0x" + "0a" * 20
GDA_POOL = "0x" + "9d" * 20
OPERATORS = ("0x" + "01" * 20, "0x" + "02" * 20)


def ref(number: int, **changes: Any) -> ChainRef:
    """The only entry of block `number`, which was made `number` seconds after a round moment."""
    values: dict[str, Any] = {
        "chain_id": 31337,
        "block_number": number,
        "block_hash": f"0x{number:064x}",
        "block_unix_s": 1_700_000_000 + number,
        "tx": f"0x{number + 10**6:064x}",
        "log_index": 0,
    }
    return ChainRef(**(values | changes))


def terms(**changes: Any) -> EscrowTerms:
    values: dict[str, Any] = {
        "pool_id": ulid(500),
        "chain_id": 31337,
        "escrow": "0x" + "e5" * 20,
        "payer": PAYER,
        "rate_wei_per_s": str(RATE),
        "cap_wei": str(CAP),
    }
    return EscrowTerms(**(values | changes))


def verified(**changes: Any) -> payment.PaymentVerified:
    values: dict[str, Any] = {
        "asset": "0x" + "5d" * 20,
        "nonce": digest(77),
        "terms": terms(),
        "max_concurrent": 2,
        "single_request": False,
        "close_by_unix_ms": FAR_FUTURE_MS,
    }
    return payment.PaymentVerified(**(values | changes))


def opened_paid(**changes: Any) -> session.Opened:
    values: dict[str, Any] = {
        "pool_id": ulid(500),
        "payer": PAYER,
        "price_wei_per_s": str(RATE),
        "single_request": False,
        "close_by_unix_ms": FAR_FUTURE_MS,
    }
    return session.Opened(**(values | changes))


def shares(seconds: int, rate: int = RATE) -> tuple[Share, ...]:
    """What two operators with 6250 and 3750 units received in `seconds`."""
    per_unit = rate // 10_000
    return tuple(
        Share(account, units, str(units * per_unit * seconds))
        for account, units in zip(OPERATORS, (6250, 3750), strict=True)
    )


def started(at: int, seconds: int = 0, **changes: Any) -> stream.Started:
    values: dict[str, Any] = {
        "active": 1,
        "rate_wei_per_s": str(RATE),
        "epoch": 1,
        "gda_pool": GDA_POOL,
        "hard_stop_unix_s": 1_700_000_000 + at + 30_000,
        "paid": shares(seconds) if seconds else (),
        "instant_wei": "0",
        "at": ref(at),
    }
    return stream.Started(**(values | changes))


def stopped(at: int, seconds: int, **changes: Any) -> stream.Stopped:
    values: dict[str, Any] = {
        "paid": shares(seconds),
        "instant_wei": "0",
        "closed": False,
        "refund_wei": "0",
        "at": ref(at),
    }
    return stream.Stopped(**(values | changes))


def closed(at: int, seconds: int, spent_before: int = 0) -> stream.Stopped:
    """The last fact: the rest of the voucher goes back."""
    refund = CAP - spent_before - RATE * seconds
    return stopped(at, seconds, closed=True, refund_wei=str(refund))
