"""The vouchers that were taken, one row each: claimed before anything is done for it, and never removed.

The row is what makes one voucher open one session, however often and wherever it is sent. It also keeps what
the escrow needs (its terms and the signed voucher), which the log does not. Knows nothing of HTTP.
"""

from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

State = Literal["claimed", "settled", "failed"]
COLUMNS = "chain_id, asset, payer, nonce, session_id, pool_id, escrow, terms, voucher, state, reason"


class VoucherUsed(Exception):
    """payment_already_used: this voucher was taken before; `row` says by which session."""

    code = "payment_already_used"

    def __init__(self, row: "VoucherRow") -> None:
        super().__init__(f"voucher {row.nonce} opened session {row.session_id}")
        self.row = row


@dataclass(frozen=True)
class VoucherRow:
    """Addresses checksummed or not, as given; compared and kept in lower case.

    `terms` and `voucher`: ISessionEscrow's `Terms` and `Voucher` by field name; integers as decimal strings,
    bytes as 0x and hex.
    """

    chain_id: int
    asset: str
    payer: str
    nonce: str
    session_id: str
    pool_id: str
    escrow: str
    terms: dict[str, Any]
    voucher: dict[str, Any]
    state: State = "claimed"
    reason: str | None = None


async def take(engine: AsyncEngine, row: VoucherRow) -> VoucherRow | None:
    """The row as it was written, for the one caller who wrote it; None: this voucher or session has one."""
    async with engine.begin() as connection:
        made = await connection.execute(
            text(
                f"INSERT INTO vouchers ({COLUMNS}) VALUES (:chain_id, :asset, :payer, :nonce, :session_id,"
                " :pool_id, :escrow, CAST(:terms AS jsonb), CAST(:voucher AS jsonb), :state, :reason)"
                f" ON CONFLICT DO NOTHING RETURNING {COLUMNS}"
            ),
            {
                "chain_id": row.chain_id,
                "asset": row.asset.lower(),
                "payer": row.payer.lower(),
                "nonce": row.nonce.lower(),
                "session_id": row.session_id,
                "pool_id": row.pool_id,
                "escrow": row.escrow.lower(),
                "terms": msgspec.json.encode(row.terms).decode(),
                "voucher": msgspec.json.encode(row.voucher).decode(),
                "state": row.state,
                "reason": row.reason,
            },
        )
        first = made.one_or_none()
    return None if first is None else _row(first)


async def claim(engine: AsyncEngine, row: VoucherRow) -> VoucherRow:
    """The row, now ours. Raises VoucherUsed when (chain, asset, payer, nonce) was claimed before.

    The same claim by the same session is answered with its row, so that it can be gone on with.
    """
    first = await take(engine, row)
    if first is not None:
        return first
    known = await of_nonce(engine, row.chain_id, row.asset, row.payer, row.nonce)
    if known is None:
        known = await of_session(engine, row.session_id)
    if known is None:
        raise LookupError(f"voucher {row.nonce} collides with a row that is not there")
    same = (known.session_id, known.nonce, known.payer, known.escrow)
    if same != (row.session_id, row.nonce.lower(), row.payer.lower(), row.escrow.lower()):
        raise VoucherUsed(known)
    return known


async def of_session(engine: AsyncEngine, session_id: str) -> VoucherRow | None:
    return await _one(engine, "session_id = :session_id", session_id=session_id)


async def of_nonce(
    engine: AsyncEngine, chain_id: int, asset: str, payer: str, nonce: str
) -> VoucherRow | None:
    return await _one(
        engine,
        "chain_id = :chain_id AND asset = :asset AND payer = :payer AND nonce = :nonce",
        chain_id=chain_id,
        asset=asset.lower(),
        payer=payer.lower(),
        nonce=nonce.lower(),
    )


async def in_state(engine: AsyncEngine, state: State) -> list[VoucherRow]:
    """Oldest first; "claimed" ones are those whose outcome a crash may have left open."""
    async with engine.connect() as connection:
        found = await connection.execute(
            text(f"SELECT {COLUMNS} FROM vouchers WHERE state = :state ORDER BY created_at, session_id"),
            {"state": state},
        )
        return [_row(one) for one in found]


async def move(engine: AsyncEngine, session_id: str, state: State, reason: str | None = None) -> None:
    """Settled once is settled for good; a failed one may still turn out to be settled."""
    async with engine.begin() as connection:
        await connection.execute(
            text(
                "UPDATE vouchers SET state = :state, reason = :reason, moved_at = now()"
                " WHERE session_id = :session_id AND state <> 'settled'"
            ),
            {"state": state, "reason": reason, "session_id": session_id},
        )


async def _one(engine: AsyncEngine, condition: str, **values: Any) -> VoucherRow | None:
    async with engine.connect() as connection:
        found = await connection.execute(text(f"SELECT {COLUMNS} FROM vouchers WHERE {condition}"), values)
        row = found.one_or_none()
    return None if row is None else _row(row)


def _row(row: Any) -> VoucherRow:
    return VoucherRow(**row._mapping)
