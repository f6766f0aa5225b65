"""Whatever a chain does with a coalition's epochs, and however late, often or out of order the log hears of
it: in the end the pool pays exactly when the chain does, and the read model shows the same.
"""

from hypothesis import given, settings
from hypothesis import strategies as st

from events import coalition, pool
from events.chain import ChainRef
from events.envelope import Recorded
from events.kernel import Rejected
from events.pool import pool as decider
from projections.changes import Put
from projections.pools import changes_of
from tests.aggregates import proposed, shard, ulid

ADDRESS = "0x" + "c0" * 20
PLANNED: tuple[pool.PoolEvent, ...] = (
    proposed(price_wei_per_s="5"),
    pool.MemberAccepted(ulid(1), "sig"),
    pool.Planned(1, (shard(1, 0, 8, 10_000),), "why"),
)
Fact = pool.CoalitionOpened | pool.CoalitionEnded


class Chain:
    """A coalition's entries, newest last: openings and ends by turns."""

    def __init__(self) -> None:
        self.forks = 0
        self.entries: list[Fact] = []
        self.gone: list[Fact] = []
        self.grow()

    @property
    def pays(self) -> bool:
        return isinstance(self.entries[-1], pool.CoalitionOpened)

    def grow(self) -> None:
        number = len(self.entries) + 1
        block = f"0x{self.forks:08x}{number:056x}"
        at = ChainRef(31337, number, block, number, f"0x{number:064x}", 0)
        chain_epoch = (number + 1) // 2
        if number % 2 == 0:
            self.entries.append(pool.CoalitionEnded(ADDRESS, chain_epoch, at))
        else:
            gda_pool = f"0x{chain_epoch:040x}"
            self.entries.append(pool.CoalitionOpened(ADDRESS, 31337, 1, chain_epoch, gda_pool, at))

    def fork(self) -> None:
        """The newest entry's block is taken back, if it is an end: openings are told when they are final."""
        if not self.pays:
            self.forks += 1
            self.gone.append(self.entries.pop())


class Log:
    """A pool's history, and the row that it shows."""

    def __init__(self) -> None:
        self.state = decider.fold(PLANNED)
        self.row: dict[str, object] = {}

    def tell(self, command: pool.PoolCommand) -> None:
        try:
            events = decider.decide(command, self.state)
        except Rejected:
            return
        for event in events:
            self.state = decider.evolve(self.state, event)
            tag = str(event.__struct_config__.tag)
            told = Recorded(1, 0, "pool", ulid(5), 1, "", "", "", tag, 0, "", "", "", event)
            (change,) = changes_of(told, event)
            assert isinstance(change, Put)
            self.row |= change.values

    @property
    def openings(self) -> coalition.Openings:
        assert isinstance(self.state, pool.Forming)
        return self.state.openings

    def hear(self, fact: Fact) -> None:
        opens = isinstance(fact, pool.CoalitionOpened)
        self.tell(pool.OpenCoalition(fact) if opens else coalition.EndCoalition(fact))  # type: ignore[arg-type]

    def read(self, chain: Chain) -> None:
        """As the keeper does after a reorganisation; openings come by the gateway."""
        for end in self.openings.ends:
            if end not in chain.entries:
                self.tell(coalition.RevertCoalitionEnd(end.at))
        for fact in chain.entries:
            self.hear(fact)


STEPS = st.lists(
    st.tuples(st.sampled_from(("grow", "fork", "hear", "read")), st.integers(0, 20)), max_size=40
)


@given(STEPS)
@settings(max_examples=300, deadline=None)
def test_in_the_end_the_pool_pays_exactly_when_the_chain_does(steps: list[tuple[str, int]]) -> None:
    chain, log = Chain(), Log()
    log.hear(chain.entries[0])
    for step, number in steps:
        match step:
            case "grow":
                chain.grow()
            case "fork":
                chain.fork()
            case "hear":
                known = chain.entries + chain.gone
                log.hear(known[number % len(known)])
            case _:
                log.read(chain)
    log.read(chain)
    assert log.openings.over is not chain.pays
    assert log.openings.paying == (1 if chain.pays else None)
    last = chain.entries[-1]
    gda_pool = last.gda_pool if isinstance(last, pool.CoalitionOpened) else None
    assert log.openings.gda_pool_of(1) == gda_pool
    row = {"gda_pool": gda_pool, "paid_epoch": log.openings.paying, "chain_epoch": last.chain_epoch}
    assert {name: log.row[name] for name in row} == row
    before = log.state
    log.read(chain)
    assert log.state == before
