"""What follows from a silent node for its bond: a breach is reported, and a report that nobody proves ends.

Pure, like `events.policies`, whose reactions these are too. Decides nothing: attestors probe and vote.
"""

from collections.abc import Iterator

from events import node, pool, session, slash
from events.breach import KINDS, Kind
from events.envelope import Recorded
from events.ids import policy_command_id, slash_id_of
from events.policies import Do
from events.view import View


def react(recorded: Recorded, view: View) -> tuple[Do, ...]:
    """A node went silent while a paid request ran through its ring; `view` already contains the event."""
    if not isinstance(recorded.event, node.Lost):
        return ()
    return tuple(_report_stalls(recorded, view))


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
    )


def _report_stalls(recorded: Recorded, view: View) -> Iterator[Do]:
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
        if forming is None:
            continue
        registered = present.registration
        at = recorded.time_unix_ms
        case = case_of(forming, registered, session_id, opened, "stall", "node.lost", at)
        if case is not None:
            slash_id = slash_id_of(session_id, case.operator, case.kind)
            command_id = policy_command_id(recorded.event_id, f"stall:{session_id}", 0)
            yield Do("slash", slash_id, slash.Report(case), command_id)
