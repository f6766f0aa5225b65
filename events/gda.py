"""What Superfluid's General Distribution Agreement pays, recomputed from its events: integers, no tolerance.

Every figure that the chain claims beside what it is computed from is checked on the way. Source: the
package's SemanticMoney, SuperfluidPool and GeneralDistributionAgreementV1. Rates are wei per second, values
wei, times block timestamps in seconds; all division truncates. Knows no connection; `fact_of` reads raw logs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

FLOW_TOPIC = bytes.fromhex("c4bd0e4bfe3a83cbd5a7a71bb33bcb6bed9e0c24d710f3fb51c85caf1cd3af36")
INSTANT_TOPIC = bytes.fromhex("6e8348961b299f365797c30cd18a91284b046858689eeb6150a5ba432fe6583e")
UNITS_TOPIC = bytes.fromhex("58b452da1f241e47a4cf34c1a770df2202ae3743eb13aa99f14cc8c7b5c133ba")
WORD = 32


class GdaMismatch(Exception):
    """gda_mismatch: the chain's events do not follow from each other by Superfluid's rules."""

    code = "gda_mismatch"


@dataclass(frozen=True)
class UnitsSet:
    """A member's units of a gda_pool."""

    member: str
    old: int
    new: int
    at_unix_s: int


@dataclass(frozen=True)
class FlowSet:
    """`rate` and `old_rate` are the distributor's; `total_rate` what all members get together.

    `adjustment_rate` goes to the pool's admin: what does not divide by the units.
    """

    distributor: str
    old_rate: int
    rate: int
    total_rate: int
    adjustment_rate: int
    at_unix_s: int


@dataclass(frozen=True)
class Distributed:
    """At once: `actual` of `requested` wei."""

    distributor: str
    requested: int
    actual: int
    at_unix_s: int


Fact = UnitsSet | FlowSet | Distributed


@dataclass(frozen=True)
class Member:
    """`settled`: wei received up to `synced`, the pool's value per unit at that moment."""

    units: int = 0
    settled: int = 0
    synced: int = 0


@dataclass(frozen=True)
class Distributor:
    rate: int = 0
    since_unix_s: int = 0
    settled: int = 0


@dataclass(frozen=True)
class GdaPool:
    """One pool after some facts. Accounts are lower-case 0x-hex."""

    units: int = 0
    rate_per_unit: int = 0
    value_per_unit: int = 0
    at_unix_s: int = 0
    adjustment_rate: int = 0
    adjusted: int = 0
    members: Mapping[str, Member] = field(default_factory=dict)
    distributors: Mapping[str, Distributor] = field(default_factory=dict)

    def received(self, member: str, at_unix_s: int) -> int:
        """Wei that this member has got by then: what getTotalAmountReceivedByMember answers in that block."""
        known = self.members.get(member, Member())
        return known.settled + known.units * (self._value_at(at_unix_s) - known.synced)

    def spent(self, distributor: str, at_unix_s: int) -> int:
        """Wei that this distributor has paid by then, adjustments included."""
        known = self.distributors.get(distributor, Distributor())
        return known.settled + known.rate * (at_unix_s - known.since_unix_s)

    def adjustments(self, at_unix_s: int) -> int:
        """Wei that went to the admin by then; 0 where the units are never edited and divide every rate."""
        return self.adjusted + self.adjustment_rate * (at_unix_s - self.at_unix_s)

    def member_rate(self, member: str) -> int:
        return self.rate_per_unit * self.members.get(member, Member()).units

    def _value_at(self, at_unix_s: int) -> int:
        return self.value_per_unit + self.rate_per_unit * (at_unix_s - self.at_unix_s)


def replay(facts: Sequence[Fact]) -> GdaPool:
    """From an empty pool, in the chain's order. Raises GdaMismatch."""
    pool = GdaPool()
    for fact in facts:
        pool = after(pool, fact)
    return pool


def after(pool: GdaPool, fact: Fact) -> GdaPool:
    """Raises GdaMismatch."""
    _agree(fact.at_unix_s >= pool.at_unix_s, fact, f"the pool was at {pool.at_unix_s} already")
    now = replace(
        pool,
        value_per_unit=pool._value_at(fact.at_unix_s),
        adjusted=pool.adjustments(fact.at_unix_s),
        at_unix_s=fact.at_unix_s,
    )
    match fact:
        case UnitsSet():
            return _units(now, fact)
        case FlowSet():
            return _flow(now, fact)
        case Distributed():
            return _instant(now, fact)


def _units(pool: GdaPool, fact: UnitsSet) -> GdaPool:
    """The rate is spread over the new sum of units; what does not divide flows to the admin from now on."""
    known = pool.members.get(fact.member, Member())
    _agree(known.units == fact.old, fact, f"the member had {known.units} units")
    total, rate = pool.units + fact.new - fact.old, pool.rate_per_unit * pool.units
    per_unit = rate // total if total else 0
    member = Member(fact.new, pool.received(fact.member, pool.at_unix_s), pool.value_per_unit)
    return replace(
        pool,
        units=total,
        rate_per_unit=per_unit,
        adjustment_rate=pool.adjustment_rate + rate - per_unit * total,
        members={**pool.members, fact.member: member},
    )


def _flow(pool: GdaPool, fact: FlowSet) -> GdaPool:
    """Conservation is checked: what all distributors pay is what members and admin get, each second."""
    known = pool.distributors.get(fact.distributor, Distributor())
    _agree(known.rate == fact.old_rate, fact, f"the distributor's rate was {known.rate}")
    _agree(min(fact.rate, fact.total_rate, fact.adjustment_rate) >= 0, fact, "a rate is negative")
    per_unit, rest = divmod(fact.total_rate, pool.units) if pool.units else (0, fact.total_rate)
    _agree(rest == 0, fact, f"{pool.units} units do not divide the rate")
    settled = pool.spent(fact.distributor, pool.at_unix_s)
    distributor = Distributor(fact.rate, pool.at_unix_s, settled)
    distributors = {**pool.distributors, fact.distributor: distributor}
    paid = sum(each.rate for each in distributors.values())
    _agree(paid == fact.total_rate + fact.adjustment_rate, fact, f"distributors pay {paid} in all")
    return replace(
        pool, rate_per_unit=per_unit, adjustment_rate=fact.adjustment_rate, distributors=distributors
    )


def _instant(pool: GdaPool, fact: Distributed) -> GdaPool:
    per_unit = fact.requested // pool.units if pool.units else 0
    _agree(fact.actual == per_unit * pool.units, fact, f"{per_unit * pool.units} of it divides")
    known = pool.distributors.get(fact.distributor, Distributor())
    settled = replace(known, settled=known.settled + fact.actual)
    return replace(
        pool,
        value_per_unit=pool.value_per_unit + per_unit,
        distributors={**pool.distributors, fact.distributor: settled},
    )


def _agree(holds: bool, fact: Fact, why: str) -> None:
    if not holds:
        raise GdaMismatch(f"{fact}: {why}")


def pool_of(address: str, topics: Sequence[bytes]) -> str | None:
    """The gda_pool that a log of the agreement or of a pool is about; None: it is neither."""
    kind = topics[0] if topics else b""
    if kind == UNITS_TOPIC:
        return address.lower()
    return _account(topics[2]) if kind in (FLOW_TOPIC, INSTANT_TOPIC) and len(topics) > 2 else None


def fact_of(topics: Sequence[bytes], data: bytes, at_unix_s: int) -> Fact | None:
    """A raw log as a fact; None: an event that moves nothing here. `at_unix_s` is its block's timestamp.

    Raises GdaMismatch for data too short to be such an event.
    """
    kind = topics[0] if topics else b""
    words = [int.from_bytes(data[at : at + WORD], "big", signed=True) for at in range(0, len(data), WORD)]
    try:
        if kind == UNITS_TOPIC:
            return UnitsSet(_account(topics[2]), words[0], words[1], at_unix_s)
        if kind == FLOW_TOPIC:
            _, old, new, total, _, adjustment = words[:6]
            return FlowSet(_account(topics[3]), old, new, total, adjustment, at_unix_s)
        if kind == INSTANT_TOPIC:
            return Distributed(_account(topics[3]), words[1], words[2], at_unix_s)
    except (IndexError, ValueError) as short:
        raise GdaMismatch(f"a log of {len(data)} bytes with {len(topics)} topics: {short}") from short
    return None


def _account(topic: bytes) -> str:
    return "0x" + topic[-20:].hex()
