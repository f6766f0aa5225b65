"""What follows from a silent node for its bond: a breach is reported, and a report that nobody proves ends.

Pure, like `events.policies`, whose reactions these are too. Decides nothing: attestors probe and vote.
"""

from collections.abc import Iterator

from events import node, pool, session, slash
from events.breach import KINDS, Kind
from events.envelope import Recorded
from events.ids import policy_command_id, slash_id_of
from events.policies import Do
from events.seat import Seat
from events.view import View

SILENT_AT_START_MS = 2_000
"""A node that was last seen so long before a session began (two of its heartbeats) was not there for it."""


def react(recorded: Recorded, view: View) -> tuple[Do, ...]:
    """A paid session's node is silent: it fell so while a request ran, or before the session began.

    `view` already contains the event.
    """
    match recorded.event:
        case node.Lost() as lost:
            return tuple(_silences(lost, recorded, view))
        case session.Opened():
            return tuple(_absences(recorded, view))
        case _:
            return ()


def overdue(view: View, now_unix_ms: int) -> tuple[Do, ...]:
    """Reports whose time for votes is over."""
    late = [
        slash_id
        for slash_id, case in view.slashes.items()
        if case.stage in ("reported", "proven") and now_unix_ms // 1000 > case.report.votes_until_unix_s
    ]
    return tuple(
        Do("slash", slash_id, slash.Expire(now_unix_ms), f"votes-expired:{slash_id}") for slash_id in late
    )


def case_of(
    forming: pool.Forming,
    seat: node.Registered,
    session_id: str,
    opened: session.OpenSession | session.Closed,
    kind: Kind,
    reporter: str,
    at_unix_ms: int,
    in_plan: Seat | None = None,
) -> slash.Reported | None:
    """The case by the coalition's terms; None when nobody has said them, or the session is not a paid one."""
    terms, voucher = forming.openings.breach_terms, opened.voucher
    if terms is None or voucher is None or forming.openings.coalition is None:
        return None
    return slash.Reported(
        session_id=session_id,
        pool_id=opened.terms.pool_id,
        node_id=seat.node_id,
        operator=seat.payout_wallet,
        receipt_key=seat.receipt_key,
        kind=kind,
        chain_id=voucher.terms.chain_id,
        escrow=voucher.terms.escrow,
        coalition=forming.openings.coalition,
        attestors=terms.attestors,
        quorum=terms.quorum,
        most_micro=terms.most_per_kind_micro[KINDS.index(kind)],
        least_probes=terms.least_probes,
        longest_probe_window_s=terms.longest_probe_window_s,
        reporter=reporter,
        at_unix_ms=at_unix_ms,
        deterministic=terms.deterministic,
        seat=in_plan,
    )


def _silences(lost: node.Lost, recorded: Recorded, view: View) -> Iterator[Do]:
    """One silence is one kind of breach: of a session that began in it a no-show, else a stall."""
    node_id = recorded.aggregate_id
    present = view.nodes.get(node_id)
    if not isinstance(present, node.Present):
        return
    rings = {
        (pool_id, ring.epoch): forming
        for pool_id, forming, ring in view.rings()
        if any(shard.node_id == node_id for shard in ring.shards)
    }
    for session_id, opened in view.sessions.items():
        used = [rings.get((opened.terms.pool_id, started.epoch)) for started in opened.running.values()]
        forming = next((ring for ring in used if ring is not None), None)
        kind: Kind = "stall"
        if _began_without(view, session_id, lost.last_seen_unix_ms):
            kind, forming = "no_show", forming or _promised(view, opened, node_id)
        if forming is not None:
            yield from _report(forming, present, session_id, opened, kind, "node.lost", recorded)


def _absences(recorded: Recorded, view: View) -> Iterator[Do]:
    """Members that were lost already when somebody's payment came."""
    session_id = recorded.aggregate_id
    opened = view.sessions.get(session_id)
    if opened is None:
        return
    for node_id, present in view.present():
        if present.reachable or not _began_without(view, session_id, present.lost_since_unix_ms):
            continue
        forming = _promised(view, opened, node_id)
        if forming is not None:
            yield from _report(forming, present, session_id, opened, "no_show", "session.opened", recorded)


def _began_without(view: View, session_id: str, last_seen_unix_ms: int) -> bool:
    """Whether a node that was last seen then had fallen silent when the session began."""
    return view.opened_unix_ms[session_id] - last_seen_unix_ms >= SILENT_AT_START_MS


def _promised(view: View, opened: session.OpenSession, node_id: str) -> pool.Forming | None:
    """The session's pool, if this node has a seat in what its next request would pay."""
    forming = view.pools.get(opened.terms.pool_id)
    if opened.closing is not None or not isinstance(forming, pool.Forming) or forming.serving is None:
        return None
    serving = forming.serving
    seated = any(shard.node_id == node_id for shard in serving.shards)
    return forming if seated and forming.openings.gda_pool_of(serving.epoch) is not None else None


def _report(
    forming: pool.Forming,
    present: node.Present,
    session_id: str,
    opened: session.OpenSession,
    kind: Kind,
    reporter: str,
    recorded: Recorded,
) -> Iterator[Do]:
    seat = present.registration
    case = case_of(forming, seat, session_id, opened, kind, reporter, recorded.time_unix_ms)
    if case is not None:
        slash_id = slash_id_of(session_id, case.operator, case.kind)
        command_id = policy_command_id(recorded.event_id, f"{kind}:{session_id}:{seat.node_id}", 0)
        yield Do("slash", slash_id, slash.Report(case), command_id)
