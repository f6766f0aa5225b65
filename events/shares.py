"""How one flow or one distribution is divided among a gda_pool's members, in integers; knows no chain.

Of one session alone, where `events.gda` follows a whole pool. Source: Superfluid's ethereum-contracts 1.15,
GeneralDistributionAgreementV1 and SuperfluidPool. All division is truncation: what does not divide is not
charged, so that nobody gets it and the payer keeps it.
"""

from collections.abc import Mapping

WEI_PER_MICRO = 10**12
"""USDC has 6 decimals, the super token 18."""


def actual_rate(asked_wei_per_s: int, total_units: int) -> int:
    """What really flows: the largest multiple of all units. Without units, nothing."""
    return asked_wei_per_s // total_units * total_units if total_units else 0


def streamed(rate_wei_per_s: int, seconds: int, units: Mapping[str, int]) -> dict[str, int]:
    """What each member receives of a flow at `rate_wei_per_s` in so many seconds."""
    return _divided(rate_wei_per_s, seconds, units)


def distributed(amount_wei: int, units: Mapping[str, int]) -> dict[str, int]:
    """What each member receives of an amount that is distributed at once."""
    return _divided(amount_wei, 1, units)


def _divided(wei: int, times: int, units: Mapping[str, int]) -> dict[str, int]:
    total = sum(units.values())
    per_unit = wei // total if total else 0
    return {member: held * per_unit * times for member, held in units.items() if held}
