"""A session's terms and voucher as the contracts take them, from the table where the payment left them."""

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from services import vouchers

TERMS = (
    "payer", "coalition", "rate", "minCap", "cap", "minSecondsPerRequest", "maxConcurrent", "openBy",
    "closeBy", "controller", "sessionId",
)  # fmt: skip
VOUCHER = ("from", "value", "validAfter", "validBefore", "nonce", "signature")
ADDRESSES = {"payer", "coalition", "controller", "from"}
BYTES = {"sessionId", "nonce", "signature"}


@dataclass(frozen=True)
class Voucher:
    """`terms` and `voucher` in the order of the structs in ISessionEscrow.sol."""

    terms: tuple[Any, ...]
    voucher: tuple[Any, ...]


@dataclass(frozen=True)
class Vouchers:
    engine: AsyncEngine

    async def of(self, session_id: str) -> Voucher | None:
        row = await vouchers.of_session(self.engine, session_id)
        return None if row is None else Voucher(_tuple(TERMS, row.terms), _tuple(VOUCHER, row.voucher))


def _tuple(names: tuple[str, ...], found: dict[str, str]) -> tuple[Any, ...]:
    return tuple(_value(name, found[name]) for name in names)


def _value(name: str, written: str) -> object:
    if name in BYTES:
        return bytes.fromhex(written.removeprefix("0x"))
    return written if name in ADDRESSES else int(written)


def written(values: tuple[Any, ...]) -> str:
    """A struct as a workflow's input: a JSON list of texts, in the struct's order."""
    return json.dumps(["0x" + one.hex() if isinstance(one, bytes) else str(one) for one in values])
