"""The case of a claim that somebody opened on the chain before anybody had reported the breach.

From the log alone. Knows no proof: the contract has checked it.
"""

from events import node, pool, session, slash
from events.breach import Kind
from events.slash_policies import case_of
from events.view import View
from services.log import EventLog

REPORTER = "chain"


async def case_of_claim(
    events: EventLog, view: View, session_id: str, coalition: str, operator: str, kind: Kind, at_unix_ms: int
) -> slash.Reported | None:
    """Of the operator's node in the session's pool, the first by its id when it has several there.

    None when the log can't say it: a session that was never opened, another coalition than its pool's, one
    whose attestors nobody named, an operator without a node, or a kind whose case needs the plan's number
    (`SEATED`), which no claim names. Raises LogUnavailable.
    """
    if kind in slash.SEATED or not session_id:
        return None
    history = await events.history("session", session_id)
    opened = session.session.fold(item.event for item in history.recorded)
    if not isinstance(opened, session.OpenSession | session.Closed):
        return None
    forming = view.pools.get(opened.terms.pool_id)
    if (
        not isinstance(forming, pool.Forming)
        or (forming.openings.coalition or "").lower() != coalition.lower()
    ):
        return None
    owned = [
        (node_id not in forming.members, node_id, state.registration)
        for node_id, state in view.nodes.items()
        if not isinstance(state, node.Absent) and _same(state.registration.payout_wallet, operator)
    ]
    if not owned:
        return None
    _, _, seat = min(owned, key=lambda one: one[:2])
    return case_of(forming, seat, session_id, opened, kind, REPORTER, at_unix_ms)


def _same(first: str, second: str) -> bool:
    return first.lower() == second.lower()
