"""One escrow's entries in the chain's log, turned into what was paid to whom since the entry before: pure.

The same rules as the auditor's, written apart from it. Knows no connection, no log of ours and no session.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from events.chain import ChainRef, Share
from events.shares import WEI_PER_MICRO, distributed, streamed

Units = Mapping[str, int]


@dataclass(frozen=True)
class RateSet:
    """`active` requests pay `rate_wei_per_s` to this gda_pool from the block's second on."""

    at: ChainRef
    gda_pool: str
    active: int
    rate_wei_per_s: int
    hard_stop_unix_s: int


@dataclass(frozen=True)
class MinimumPaid:
    at: ChainRef
    gda_pool: str
    amount_wei: int


@dataclass(frozen=True)
class StreamLost:
    """It ended at `ended_unix_s`; `gone_wei`: all that the escrow had lost by then, penalty included."""

    at: ChainRef
    gda_pool: str
    ended_unix_s: int
    gone_wei: int


@dataclass(frozen=True)
class Closed:
    at: ChainRef
    spent_wei: int
    refund_micro: int


Entry = RateSet | MinimumPaid | StreamLost | Closed


@dataclass(frozen=True)
class Change:
    """What one entry comes to. `lost`: somebody else ended the stream, and took `penalty_wei`."""

    at: ChainRef
    active: int = 0
    rate_wei_per_s: int = 0
    gda_pool: str = ""
    hard_stop_unix_s: int = 0
    paid: tuple[Share, ...] = ()
    instant_wei: int = 0
    closed: bool = False
    refund_wei: int = 0
    lost: bool = False
    penalty_wei: int = 0


@dataclass(frozen=True)
class Meter:
    """Where one escrow's flow stands. `spent_wei`: paid and lost until now."""

    gda_pool: str = ""
    rate_wei_per_s: int = 0
    since_unix_s: int = 0
    spent_wei: int = 0
    disagrees: bool = False
    """The escrow's own count of what was spent is another than this one."""
    instants: tuple[MinimumPaid, ...] = field(default=())

    def flow(self, until_unix_s: int, units: Mapping[str, Units]) -> dict[tuple[str, int], int]:
        """(member, its units) -> wei, of the stream since its last change and of what was paid at once."""
        found: dict[tuple[str, int], int] = {}
        parts = [(one.gda_pool, distributed(one.amount_wei, units[one.gda_pool])) for one in self.instants]
        if self.rate_wei_per_s:
            seconds = until_unix_s - self.since_unix_s
            parts.append((self.gda_pool, streamed(self.rate_wei_per_s, seconds, units[self.gda_pool])))
        for gda_pool, shares in parts:
            for member, wei in shares.items():
                key = member, units[gda_pool][member]
                found[key] = found.get(key, 0) + wei
        return found


def pools_of(meter: Meter, entries: Sequence[Entry]) -> set[str]:
    """The gda_pools whose units `read` needs."""
    named = {meter.gda_pool, *(entry.gda_pool for entry in entries if not isinstance(entry, Closed))}
    return {gda_pool for gda_pool in named if int(gda_pool or "0", 16)}


def read(
    meter: Meter, entries: Sequence[Entry], units: Mapping[str, Units]
) -> tuple[Meter, tuple[Change, ...]]:
    """All of one escrow's entries of one transaction, in order.

    A stop and a close of one transaction are one change, which stands where the close does.
    """
    changes: list[Change] = []
    for entry in entries:
        match entry:
            case MinimumPaid():
                meter = replace(meter, instants=(*meter.instants, entry))
            case StreamLost():
                meter, change = _lost(meter, entry, units)
                changes.append(change)
            case RateSet():
                meter, change = _count(meter, entry.at, units)
                meter = replace(meter, gda_pool=entry.gda_pool, rate_wei_per_s=entry.rate_wei_per_s)
                changes.append(
                    replace(
                        change,
                        active=entry.active,
                        rate_wei_per_s=entry.rate_wei_per_s,
                        gda_pool=entry.gda_pool,
                        hard_stop_unix_s=entry.hard_stop_unix_s,
                    )
                )
            case Closed():
                meter, change = _count(meter, entry.at, units)
                if changes and not changes[-1].lost and changes[-1].active == 0:
                    stopped = changes.pop()
                    change = replace(change, paid=stopped.paid, instant_wei=stopped.instant_wei)
                refund = entry.refund_micro * WEI_PER_MICRO
                meter = replace(meter, rate_wei_per_s=0, disagrees=entry.spent_wei != meter.spent_wei)
                changes.append(replace(change, closed=True, refund_wei=refund))
    return meter, tuple(changes)


def _count(meter: Meter, at: ChainRef, units: Mapping[str, Units]) -> tuple[Meter, Change]:
    paid = meter.flow(at.block_unix_s, units)
    shares = tuple(Share(member, held, str(wei)) for (member, held), wei in sorted(paid.items()) if wei)
    instant = sum(one.amount_wei for one in meter.instants)
    spent = meter.spent_wei + sum(paid.values())
    counted = replace(meter, since_unix_s=at.block_unix_s, spent_wei=spent, instants=())
    return counted, Change(at, paid=shares, instant_wei=instant)


def _lost(meter: Meter, entry: StreamLost, units: Mapping[str, Units]) -> tuple[Meter, Change]:
    """It flowed until it was ended, which was before this entry's block."""
    meter, change = _count(meter, _ended(entry), units)
    penalty = max(0, entry.gone_wei - meter.spent_wei)
    meter = replace(meter, rate_wei_per_s=0, spent_wei=meter.spent_wei + penalty)
    return meter, replace(change, at=entry.at, lost=True, penalty_wei=penalty)


def _ended(entry: StreamLost) -> ChainRef:
    at = entry.at
    return ChainRef(at.chain_id, at.block_number, at.block_hash, entry.ended_unix_s, at.tx, at.log_index)
