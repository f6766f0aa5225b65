"""What policies may look at: the state of every live aggregate, folded from the log and from nothing else."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from events import node, pool, session
from events.envelope import Recorded


@dataclass
class View:
    """Folded by one reader; settled sessions are forgotten, so that its size follows what is open."""

    nodes: dict[str, node.NodeState] = field(default_factory=dict)
    pools: dict[str, pool.PoolState] = field(default_factory=dict)
    sessions: dict[str, session.OpenSession] = field(default_factory=dict)
    sequence: int = 0

    def apply(self, recorded: Recorded) -> None:
        """Fold one event in; events must come in log order."""
        key, event = recorded.aggregate_id, recorded.event
        match recorded.kind:
            case "node":
                self.nodes[key] = node.evolve(self.nodes.get(key, node.Absent()), event)
            case "pool":
                self.pools[key] = pool.evolve(self.pools.get(key, pool.Absent()), event)
            case "session":
                state = session.evolve(self.sessions.get(key, session.Absent()), event)
                if isinstance(state, session.OpenSession):
                    self.sessions[key] = state
                else:
                    self.sessions.pop(key, None)
            case other:
                raise ValueError(f"no view of {other}")
        self.sequence = recorded.sequence

    def present(self) -> Iterator[tuple[str, node.Present]]:
        """Registered nodes that have not retired."""
        for node_id, state in self.nodes.items():
            if isinstance(state, node.Present):
                yield node_id, state

    def serving(self) -> Iterator[tuple[str, pool.Forming, pool.Planned]]:
        """Pools with an epoch that answers requests."""
        for pool_id, state in self.pools.items():
            if isinstance(state, pool.Forming) and state.serving is not None:
                yield pool_id, state, state.serving
