"""What a coalition's chain says of one claim on a bond; part of a slash's history.

Knows no vote: the contract has checked them.
"""

from typing import Literal, assert_never

from events.breach import Micro
from events.chain import ChainRef
from events.kernel import Address, Event

FactName = Literal["claim_opened", "disputed", "upheld", "executed", "cancelled"]


class ClaimOpened(Event, frozen=True, tag="slash.claim_opened.v1"):
    """The stream is stopped, the operator evicted, and so much of its bond locked."""

    claim_id: int
    amount_micro: Micro
    executable_at_unix_s: int
    at: ChainRef


class Disputed(Event, frozen=True, tag="slash.disputed.v1"):
    """The accused locked a counter-bond; arbiters rule, or the claim falls."""

    claim_id: int
    counter_bond_micro: Micro
    rule_by_unix_s: int
    at: ChainRef


class Upheld(Event, frozen=True, tag="slash.upheld.v1"):
    """The arbiters' ruling on a disputed claim; execution or cancellation stands beside it."""

    claim_id: int
    upheld: bool
    at: ChainRef


class Executed(Event, frozen=True, tag="slash.executed.v1"):
    """The locked bond was paid out: to the session's payer at most what it had paid, the rest elsewhere."""

    claim_id: int
    payer: Address
    to_payer_micro: Micro
    to_treasury_micro: Micro
    at: ChainRef


class Cancelled(Event, frozen=True, tag="slash.cancelled.v1"):
    """The claim fell; what was locked is free again."""

    claim_id: int
    at: ChainRef


class Reverted(Event, frozen=True, tag="slash.reverted.v1"):
    """A reorg took the fact at `at` back, and with it what was paid by it (0 unless it was executed)."""

    fact: FactName
    to_payer_micro: Micro
    to_treasury_micro: Micro
    at: ChainRef


Fact = ClaimOpened | Disputed | Upheld | Executed | Cancelled


def name_of(fact: Fact) -> FactName:
    match fact:
        case ClaimOpened():
            return "claim_opened"
        case Disputed():
            return "disputed"
        case Upheld():
            return "upheld"
        case Executed():
            return "executed"
        case Cancelled():
            return "cancelled"
        case _:
            assert_never(fact)


def taken_back(fact: Fact) -> Reverted:
    """The compensating event of a fact that the chain no longer has."""
    paid = (fact.to_payer_micro, fact.to_treasury_micro) if isinstance(fact, Executed) else (0, 0)
    return Reverted(name_of(fact), *paid, fact.at)
