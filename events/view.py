"""What policies may look at: the state of every live aggregate, folded from the log and from nothing else."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from events import node, payment, pool, session, slash, stream, workflow
from events.envelope import Recorded
from events.eviction import Evictions

KEEP_CLOSED_MS = 3_600_000
"""So long (in the log's time) a closed stream or claim is remembered, because a reorg may open it again."""


@dataclass
class View:
    """Folded by one reader; settled sessions are forgotten, so that its size follows what is open.

    `paying`: vouchers verified and not yet settled. `opened_unix_ms`: since when each of `sessions` is open.
    """

    nodes: dict[str, node.NodeState] = field(default_factory=dict)
    pools: dict[str, pool.PoolState] = field(default_factory=dict)
    sessions: dict[str, session.OpenSession] = field(default_factory=dict)
    opened_unix_ms: dict[str, int] = field(default_factory=dict)
    paying: dict[str, payment.Paying] = field(default_factory=dict)
    streams: dict[str, stream.Stream] = field(default_factory=dict)
    runs: dict[str, workflow.Run] = field(default_factory=dict)
    """Runs that have not ended."""
    slashes: dict[str, slash.Slash] = field(default_factory=dict)
    evictions: Evictions = field(default_factory=Evictions)
    _closed_unix_ms: dict[str, int] = field(default_factory=dict)
    _decided_unix_ms: dict[str, int] = field(default_factory=dict)
    sequence: int = 0

    def apply(self, recorded: Recorded) -> None:
        """Fold one event in; events must come in log order."""
        key, event = recorded.aggregate_id, recorded.event
        match recorded.kind:
            case "node":
                self.nodes[key] = node.evolve(self.nodes.get(key, node.Absent()), event)
            case "pool":
                self.pools[key] = pool.evolve(self.pools.get(key, pool.Absent()), event)
                if isinstance(event, pool.CoalitionOpened):
                    self._apply_opening(self.pools[key], event)
            case "session":
                self._apply_session(key, event, recorded.time_unix_ms)
            case "stream":
                money = stream.evolve(self.streams.get(key, stream.Absent()), event)
                if isinstance(money, stream.Stream):
                    self.streams[key] = money
            case "workflow":
                run = workflow.evolve(self.runs.pop(key, workflow.Absent()), event)
                if isinstance(run, workflow.Run) and run.ended is None:
                    self.runs[key] = run
            case "slash":
                self._apply_slash(key, event, recorded.time_unix_ms)
            case other:
                raise ValueError(f"no view of {other}")
        self.sequence = recorded.sequence
        self._forget(recorded.time_unix_ms)

    def _apply_session(self, key: str, event: session.SessionEvent, at_unix_ms: int) -> None:
        before = self.sessions.get(key) or self.paying.get(key) or session.Absent()
        self.sessions.pop(key, None)
        self.paying.pop(key, None)
        since_unix_ms = self.opened_unix_ms.pop(key, at_unix_ms)
        match session.evolve(before, event):
            case session.OpenSession() as opened:
                self.sessions[key] = opened
                self.opened_unix_ms[key] = since_unix_ms
            case payment.Paying() as paying:
                self.paying[key] = paying
            case _ if isinstance(event, payment.PaymentReverted) and event.at is None:
                self.streams.pop(key, None)
            case _ if key in self.streams:
                self._closed_unix_ms[key] = at_unix_ms
            case _:
                pass

    def _apply_opening(self, state: pool.PoolState, opened: pool.CoalitionOpened) -> None:
        plans = (state.plan, state.serving) if isinstance(state, pool.Forming) else ()
        shards = next((plan.shards for plan in plans if plan is not None and plan.epoch == opened.epoch), ())
        known = (self.nodes.get(shard.node_id) for shard in shards)
        seats = [one.registration.payout_wallet for one in known if isinstance(one, node.Present | node.Gone)]
        self.evictions.seated(opened.coalition, seats, opened.at)

    def _apply_slash(self, key: str, event: slash.SlashEvent, at_unix_ms: int) -> None:
        case = slash.evolve(self.slashes.get(key, slash.Absent()), event)
        if isinstance(case, slash.Slash):
            self.slashes[key] = case
            self.evictions.claimed(key, case)
            self._decided_unix_ms.pop(key, None)
            if case.over:
                self._decided_unix_ms[key] = at_unix_ms

    def _forget(self, now_unix_ms: int) -> None:
        """Streams of sessions that closed, and breaches that were decided, long ago; the oldest first."""
        for ended, states in ((self._closed_unix_ms, self.streams), (self._decided_unix_ms, self.slashes)):
            while ended:
                key, ended_unix_ms = next(iter(ended.items()))
                if now_unix_ms - ended_unix_ms <= KEEP_CLOSED_MS:
                    break
                del ended[key]
                states.pop(key, None)

    def evicted(self, state: pool.Forming, node_id: str) -> bool:
        """Whether the pool's coalition has evicted the node's operator, and not seated it since."""
        known = self.nodes.get(node_id)
        if not state.openings.told or not isinstance(known, node.Present | node.Gone):
            return False
        last = state.openings.told[-1]
        return self.evictions.holds(last.chain_id, last.coalition, known.registration.payout_wallet)

    def present(self) -> Iterator[tuple[str, node.Present]]:
        """Registered nodes that have not retired."""
        for node_id, state in self.nodes.items():
            if isinstance(state, node.Present):
                yield node_id, state

    def rings(self) -> Iterator[tuple[str, pool.Forming, pool.Planned]]:
        """As `serving`, and the epochs before, in which requests may still end."""
        for pool_id, state, serving in self.serving():
            yield pool_id, state, serving
            if state.replaced is not None:
                yield pool_id, state, state.replaced

    def serving(self) -> Iterator[tuple[str, pool.Forming, pool.Planned]]:
        """Pools with an epoch that answers requests."""
        for pool_id, state in self.pools.items():
            if isinstance(state, pool.Forming) and state.serving is not None:
                yield pool_id, state, state.serving
