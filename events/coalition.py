"""A pool's Coalition contract as the pool knows it: which chain epoch pays the operators of which plan.

Part of `events.pool`, which hands it what it has to know. Knows no chain: the gateway has read there what
opened, the keeper what ended.
"""

from collections.abc import Collection
from dataclasses import dataclass
from dataclasses import replace as replace_whole
from typing import assert_never

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


class CoalitionEnded(Event, frozen=True, tag="pool.coalition_ended.v1"):
    """Contract `coalition` has ended its `chain_epoch`, and no other has followed in that transaction.

    A claim on one of its operators does so. Nothing new can be streamed until another epoch opens.
    `at`: where EpochEnded stands.
    """

    coalition: Address
    chain_epoch: int
    at: ChainRef


class CoalitionEndReverted(Event, frozen=True, tag="pool.coalition_end_reverted.v1"):
    """A reorg took the end at `at` back: `gda_pool` pays plan `epoch` again, by `chain_epoch`.

    Without the two an earlier end stands, and nothing pays.
    """

    coalition: Address
    chain_epoch: int
    epoch: int | None
    gda_pool: Address | None
    at: ChainRef


CoalitionEvent = CoalitionOpened | CoalitionEnded | CoalitionEndReverted


class OpenCoalition(msgspec.Struct, frozen=True):
    """What the gateway has found on its own RPC, deep enough to count."""

    opened: CoalitionOpened


class EndCoalition(msgspec.Struct, frozen=True):
    """What the keeper has read, deep enough to count."""

    ended: CoalitionEnded


class RevertCoalitionEnd(msgspec.Struct, frozen=True):
    """The chain has the block at `at` no more."""

    at: ChainRef


CoalitionCommand = OpenCoalition | EndCoalition | RevertCoalitionEnd


class PoolIsFree(Rejected):
    """A pool with price 0 pays nobody, so it has no coalition."""

    code = "pool_is_free"
    remedy = "Propose a pool with a price: computepool up --price WEI."


class CoalitionDiffers(Rejected):
    """The pool has another coalition contract already."""

    code = "coalition_differs"
    remedy = "Open the epoch in the pool's own coalition; GET /pools/{id} shows its address."


class CoalitionEpochStale(Rejected):
    """The plan is neither served nor the newest, or the coalition's epoch is known to be over."""

    code = "coalition_epoch_stale"
    remedy = "Open an epoch for the present plan: computepool pools open-coalition."


@dataclass(frozen=True)
class Openings:
    """Every chain epoch that was opened for this pool, in the log's order, and the ends that stand.

    An end of an epoch before the last opened one says nothing of the present and is not kept.
    """

    told: tuple[CoalitionOpened, ...] = ()
    ends: tuple[CoalitionEnded, ...] = ()

    @property
    def coalition(self) -> str | None:
        """The contract whose epochs pay the operators; None: nobody can pay this pool yet."""
        return self.told[-1].coalition if self.told else None

    @property
    def breach_terms(self) -> BreachTerms | None:
        return next((one.breach_terms for one in reversed(self.told) if one.breach_terms is not None), None)

    @property
    def over(self) -> bool:
        """The last epoch has ended: nothing new can be streamed until another opens."""
        return bool(self.ends)

    def gda_pool_of(self, epoch: int) -> str | None:
        """What pays the operators of this plan; None: nothing does (yet, or any more)."""
        if self.over:
            return None
        return next((one.gda_pool for one in reversed(self.told) if one.epoch == epoch), None)

    def chain_epoch_of(self, epoch: int) -> int | None:
        """Whose seats answer for what the ring of this plan signs: the one opened for it, else the last."""
        if not self.told:
            return None
        own = next((one for one in reversed(self.told) if one.epoch == epoch), self.told[-1])
        return own.chain_epoch

    def epoch_of(self, gda_pool: str) -> int | None:
        """The first plan that it paid: a later one with the same seats changes nothing on the chain."""
        paying = gda_pool.lower()
        return next((one.epoch for one in self.told if one.gda_pool.lower() == paying), None)

    @property
    def paying(self) -> int | None:
        """The plan whose operators get what streams now, by `epoch_of`."""
        return self.epoch_of(self.told[-1].gda_pool) if self.told and not self.over else None

    def pays(self, gda_pool: str) -> bool:
        """Whether what streams now goes there."""
        return bool(self.told) and not self.over and self.told[-1].gda_pool.lower() == gda_pool.lower()

    def decide(
        self, command: CoalitionCommand, price_wei_per_s: str, epochs: Collection[int]
    ) -> tuple[CoalitionEvent, ...]:
        """`epochs`: plans that may be paid. Raises PoolIsFree, CoalitionDiffers, CoalitionEpochStale."""
        match command:
            case OpenCoalition(opened):
                return self._open(opened, price_wei_per_s, epochs)
            case EndCoalition(ended):
                return self._end(ended)
            case RevertCoalitionEnd(at):
                return tuple(self._end_reverted(end) for end in self.ends if end.at.key == at.key)
            case _:
                assert_never(command)

    def _open(
        self, opened: CoalitionOpened, price_wei_per_s: str, epochs: Collection[int]
    ) -> tuple[CoalitionOpened, ...]:
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
        if any(end.chain_epoch >= opened.chain_epoch for end in self.ends):
            raise CoalitionEpochStale(f"chain epoch {opened.chain_epoch} is over")
        if opened.epoch not in epochs:
            raise CoalitionEpochStale(f"plan {opened.epoch} is neither served nor the newest")
        return (opened,)

    def _end(self, ended: CoalitionEnded) -> tuple[CoalitionEnded | CoalitionEndReverted, ...]:
        """An epoch ends once: another end of it than the one that stands says that this one is gone."""
        last = self.told[-1] if self.told else None
        here = (ended.at.chain_id, ended.coalition.lower())
        if last is None or here != (last.chain_id, last.coalition.lower()):
            raise CoalitionDiffers(f"the pool's coalition is {self.coalition}")
        if ended.chain_epoch < last.chain_epoch or any(end.at.key == ended.at.key for end in self.ends):
            return ()
        gone = tuple(self._end_reverted(end) for end in self.ends if end.chain_epoch == ended.chain_epoch)
        return (*gone, ended)

    def _end_reverted(self, end: CoalitionEnded) -> CoalitionEndReverted:
        left = self._without(end.at)
        last = self.told[-1]
        chain_epoch = max((last.chain_epoch, *(one.chain_epoch for one in left.ends)))
        epoch, gda_pool = (None, None) if left.over else (last.epoch, last.gda_pool)
        return CoalitionEndReverted(end.coalition, chain_epoch, epoch, gda_pool, end.at)

    def _without(self, at: ChainRef) -> "Openings":
        return replace_whole(self, ends=tuple(end for end in self.ends if end.at.key != at.key))

    def after(self, event: CoalitionEvent) -> "Openings":
        match event:
            case CoalitionOpened():
                later = tuple(end for end in self.ends if end.chain_epoch >= event.chain_epoch)
                return Openings((*self.told, event), later)
            case CoalitionEnded():
                return replace_whole(self, ends=(*self.ends, event))
            case CoalitionEndReverted():
                return self._without(event.at)
            case _:
                assert_never(event)


def _bare(opened: CoalitionOpened) -> CoalitionOpened:
    """The same opening, told by somebody who does not know who attests."""
    return replace(opened, breach_terms=None)
