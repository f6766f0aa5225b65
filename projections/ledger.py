"""Entries of `ledger`: who paid and received what, each with its place on the chain; knows no aggregate.

Nothing is ever changed or removed: what a reorg took back is entered again with the opposite sign. Of each
settled session the sum of `voucher` is the sum of `streamed`, `refund` and `penalty`, to the wei.
"""

from collections.abc import Iterable, Iterator
from typing import Literal

from events.chain import ChainRef, Share
from events.envelope import Recorded
from projections.changes import Append

Kind = Literal["voucher", "streamed", "refund", "penalty"]


def entry(
    recorded: Recorded, number: int, kind: Kind, account: str | None, amount_wei: int, at: ChainRef
) -> Append:
    """One row. `account` is an operator's; None is the session's payer (or, of a penalty, whoever took it).

    Amounts travel as text: they do not fit 64 bits.
    """
    return Append(
        "ledger",
        {
            "session_id": recorded.aggregate_id,
            "position": recorded.position,
            "entry": number,
            "kind": kind,
            "account": account,
            "amount_wei": str(amount_wei),
            "chain_id": at.chain_id,
            "tx": at.tx,
            "block_number": at.block_number,
            "log_index": at.log_index,
            "block_unix_s": at.block_unix_s,
        },
    )


def entries(
    recorded: Recorded,
    at: ChainRef,
    sign: int,
    paid: Iterable[Share],
    penalty_wei: str = "0",
    refund_wei: str = "0",
) -> Iterator[Append]:
    """What one fact moved (`sign` 1) or, taken back, did not move (-1)."""
    number = 0
    for share in paid:
        yield entry(recorded, number, "streamed", share.account, sign * int(share.wei), at)
        number += 1
    kinds: tuple[tuple[Kind, str], ...] = (("refund", refund_wei), ("penalty", penalty_wei))
    for kind, amount in kinds:
        if amount != "0":
            yield entry(recorded, number, kind, None, sign * int(amount), at)
            number += 1
