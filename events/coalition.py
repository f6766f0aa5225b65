"""A pool's Coalition contract as the pool knows it: which chain epoch pays the operators of which plan.

Part of `events.pool`, which hands it what it has to know. Knows no chain: the gateway has read there what is
told here.
"""

from collections.abc import Collection
from dataclasses import dataclass

import msgspec
from msgspec.structs import replace

from events.breach import Micro
from events.chain import ChainRef
from events.kernel import Address, Event, Rejected


class BreachTerms(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the contract's address commits to about breaches: who attests, and what a silence is.

    `most_per_kind_micro` in the order of `events.breach.KINDS`.
    """

    attestors: tuple[Address, ...]
    quorum: int
    most_per_kind_micro: tuple[Micro, Micro, Micro, Micro, Micro]
    least_probes: int
    longest_probe_window_s: int
    deterministic: bool


class CoalitionOpened(Event, frozen=True, tag="pool.coalition_opened.v1"):
    """Contract `coalition` has opened its `chain_epoch` with the seats of the pool's plan `epoch`.

    Streams to `gda_pool` pay exactly that plan's operators by their units. `at`: where EpochOpened stands.
    Without `breach_terms` nobody has said who attests: nothing is reported by itself.
    """

    coalition: Address
    chain_id: int
    epoch: int
    chain_epoch: int
    gda_pool: Address
    at: ChainRef
    breach_terms: BreachTerms | None = None


class OpenCoalition(msgspec.Struct, frozen=True):
    """What the gateway has found on its own RPC, deep enough to count."""

    opened: CoalitionOpened


class PoolIsFree(Rejected):
    """A pool with price 0 pays nobody, so it has no coalition."""

    code = "pool_is_free"
    remedy = "Propose a pool with a price: computepool up --price WEI."


class CoalitionDiffers(Rejected):
    """The pool has another coalition contract already."""

    code = "coalition_differs"
    remedy = "Open the epoch in the pool's own coalition; GET /pools/{id} shows its address."


class CoalitionEpochStale(Rejected):
    """The plan is neither served nor the newest, or a later epoch of the coalition is known already."""

    code = "coalition_epoch_stale"
    remedy = "Open an epoch for the present plan: computepool pools open-coalition."


@dataclass(frozen=True)
class Openings:
    """Every chain epoch that was opened for this pool, in the log's order."""

    told: tuple[CoalitionOpened, ...] = ()

    @property
    def coalition(self) -> str | None:
        """The contract whose epochs pay the operators; None: nobody can pay this pool yet."""
        return self.told[-1].coalition if self.told else None

    @property
    def breach_terms(self) -> BreachTerms | None:
        return next((one.breach_terms for one in reversed(self.told) if one.breach_terms is not None), None)

    def gda_pool_of(self, epoch: int) -> str | None:
        """What pays the operators of this plan; None: nothing does yet."""
        return next((one.gda_pool for one in reversed(self.told) if one.epoch == epoch), None)

    def epoch_of(self, gda_pool: str) -> int | None:
        """The first plan that it paid: a later one with the same seats changes nothing on the chain."""
        paying = gda_pool.lower()
        return next((one.epoch for one in self.told if one.gda_pool.lower() == paying), None)

    @property
    def paying(self) -> int | None:
        """The plan whose operators get what streams now, by `epoch_of`."""
        return self.epoch_of(self.told[-1].gda_pool) if self.told else None

    def decide(
        self, opened: CoalitionOpened, price_wei_per_s: str, epochs: Collection[int]
    ) -> tuple[CoalitionOpened, ...]:
        """`epochs`: plans that may be paid. Raises PoolIsFree, CoalitionDiffers, CoalitionEpochStale."""
        if price_wei_per_s == "0":
            raise PoolIsFree
        if opened in self.told or (opened.breach_terms is None and opened in map(_bare, self.told)):
            return ()
        if self.told:
            last = self.told[-1]
            if (opened.chain_id, opened.coalition) != (last.chain_id, last.coalition):
                raise CoalitionDiffers(f"the pool's coalition is {last.coalition} on chain {last.chain_id}")
            if opened.chain_epoch < last.chain_epoch:
                raise CoalitionEpochStale(f"chain epoch {last.chain_epoch} is open already")
        if opened.epoch not in epochs:
            raise CoalitionEpochStale(f"plan {opened.epoch} is neither served nor the newest")
        return (opened,)

    def after(self, opened: CoalitionOpened) -> "Openings":
        return Openings((*self.told, opened))


def _bare(opened: CoalitionOpened) -> CoalitionOpened:
    """The same opening, told by somebody who does not know who attests."""
    return replace(opened, breach_terms=None)
