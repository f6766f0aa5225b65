"""Every event to its row changes, whatever its kind; knows no database.

A change touches rows of the event's own aggregate only, so that the rows of one aggregate are a function of
its history and of nothing else.
"""

from collections.abc import Iterable

from events.envelope import Recorded
from projections import nodes, pools, sessions, slashes, streams, workflows
from projections.changes import Append, Batch, Change, ProjectionBroken
from projections.tables import KEYS


def changes_of(recorded: Recorded) -> tuple[Change, ...]:
    """Row changes of one event, its entry in the index of events first."""
    listed = Append(
        "events",
        {
            "position": recorded.position,
            "kind": recorded.kind,
            "aggregate_id": recorded.aggregate_id,
            "version": recorded.version,
            "type": recorded.type,
            "time_unix_ms": recorded.time_unix_ms,
            "event_id": recorded.event_id,
            "correlation_id": recorded.correlation_id,
        },
    )
    return (listed, *_of_its_kind(recorded))


def _of_its_kind(recorded: Recorded) -> tuple[Change, ...]:
    match recorded.kind:
        case "node":
            return nodes.changes_of(recorded, recorded.event)
        case "pool":
            return pools.changes_of(recorded, recorded.event)
        case "session":
            return sessions.changes_of(recorded, recorded.event)
        case "slash":
            return slashes.changes_of(recorded, recorded.event)
        case "stream":
            return streams.changes_of(recorded, recorded.event)
        case "workflow":
            return workflows.changes_of(recorded, recorded.event)
        case other:
            raise ProjectionBroken(f"no projection of {other}")


def fold(history: Iterable[Recorded], batch: Batch | None = None) -> Batch:
    """`batch` (None: a new partial one) with the changes of `history` merged in. Raises ProjectionBroken."""
    batch = Batch(KEYS) if batch is None else batch
    for recorded in history:
        batch.apply(changes_of(recorded))
    return batch
