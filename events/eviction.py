"""Whom a coalition has evicted and not seated again, as the chain orders claims and openings.

Part of `events.view`. Knows no node: operators are accounts. The log hears of no readmission; the next epoch
that seats the operator shows it, for the contract would have refused that seat.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from events.chain import ChainRef
from events.slash import Slash

Seat = tuple[int, str, str]
"""Chain, coalition and operator, the addresses in lower case."""


@dataclass
class Evictions:
    """In any order of telling the same; as many entries as there were claims and seats."""

    _claims: dict[Seat, dict[str, ChainRef]] = field(default_factory=dict)
    """By slash: where the claim that evicted the operator stands."""
    _seated: dict[Seat, tuple[int, int]] = field(default_factory=dict)
    """The last opening that gave the operator a seat, in the chain's order."""

    def claimed(self, slash_id: str, case: Slash) -> None:
        """What a slash says now. A claim evicts whatever becomes of it; one that a reorg took does not."""
        report = case.report
        claims = self._claims.setdefault(_seat(report.chain_id, report.coalition, report.operator), {})
        claims.pop(slash_id, None)
        if case.claim is not None:
            claims[slash_id] = case.claim.at

    def seated(self, coalition: str, operators: Iterable[str], at: ChainRef) -> None:
        """The epoch that `at` opened has these operators."""
        for operator in operators:
            seat = _seat(at.chain_id, coalition, operator)
            self._seated[seat] = max(at.order, self._seated.get(seat, at.order))

    def holds(self, chain_id: int, coalition: str, operator: str) -> bool:
        """Whether the operator was evicted after its last seat."""
        seat = _seat(chain_id, coalition, operator)
        before = self._seated.get(seat, (-1, -1))
        return any(at.order > before for at in self._claims.get(seat, {}).values())


def _seat(chain_id: int, coalition: str, operator: str) -> Seat:
    return chain_id, coalition.lower(), operator.lower()
