"""From the report that a paid request has ended to what is kept of its receipts; knows nothing of money.

The report counts only where the log agrees: the session is paid, the request runs, and its entry speaks.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import structlog
from nats.aio.client import Client

from events import node, pool, session
from events.envelope import Recorded
from events.view import View
from services.log import EventLog
from services.receipts import store
from services.receipts.check import About, Checked, checked, owed
from shard_runtime.messages import GenerationEnded, PlanMember
from shard_runtime.receipts import Terms

log = structlog.get_logger("orchestrator")
OPENINGS_LOOKED_AT = 8
"""A coalition may open another epoch while a request runs; its receipts are about the one it began with."""


@dataclass(frozen=True)
class Taken:
    """`root` names what is kept; None: nothing is. `missing`: nodes that computed and signed nothing."""

    root: str | None = None
    missing: tuple[str, ...] = ()


async def take(client: Client, events: EventLog, view: View, report: GenerationEnded) -> Taken:
    """Keep what holds of a report's receipts; on disk when this returns, and a repeat changes nothing.

    Raises nats.errors.Error, LogUnavailable.
    """
    asked = (await events.history("session", report.session_id)).recorded
    paid = session.session.fold(item.event for item in asked)
    if not isinstance(paid, session.OpenSession) or paid.voucher is None:
        return Taken()
    started = paid.running.get(report.request_id)
    if started is None or (started.entry_node_id, started.epoch) != (report.node_id, report.epoch):
        return Taken()
    told = (await events.history("pool", report.pool_id)).recorded
    members = members_of(told, report.epoch, view)
    if paid.terms.pool_id != report.pool_id or not members:
        return Taken()
    abouts = [
        About(terms, report.session_id, report.request_id, report.epoch, members)
        for terms in terms_of(told, paid.voucher.terms.escrow)
    ]
    if not abouts:
        return Taken()
    about, found = await asyncio.to_thread(best_of, abouts, report)
    if found.missing:
        log.warning("receipts_missing", session_id=report.session_id, node_ids=found.missing)
    if not found.receipts and found.usage is None:
        return Taken(None, found.missing)
    kept = store.Kept(about.terms, about.attempt, found.receipts, found.usage)
    await store.keep(client, kept)
    return Taken(kept.root, found.missing)


def best_of(abouts: list[About], report: GenerationEnded) -> tuple[About, Checked]:
    """By the terms under which most nodes' receipts hold; of equals the first."""
    due = owed(report.finish_reason, report.completion_tokens)
    every = [(about, checked(about, report.receipts, report.usage, due)) for about in abouts]
    return max(every, key=lambda pair: (len(pair[1].receipts), pair[1].usage is not None))


def terms_of(told: tuple[Recorded, ...], escrow: str) -> Iterator[Terms]:
    """What receipts may be about in this pool, the newest first."""
    opened = [item.event for item in told if isinstance(item.event, pool.CoalitionOpened)]
    terms = (Terms(one.chain_id, one.coalition, one.chain_epoch, escrow) for one in reversed(opened))
    for _, one in zip(range(OPENINGS_LOOKED_AT), dict.fromkeys(terms), strict=False):
        yield one


def members_of(told: tuple[Recorded, ...], epoch: int, view: View) -> tuple[PlanMember, ...]:
    """The ring of a plan with its nodes' receipt keys; () when there is no such plan."""
    for item in told:
        if isinstance(item.event, pool.Planned) and item.event.epoch == epoch:
            return tuple(
                PlanMember(
                    shard.node_id,
                    shard.mesh_key,
                    known.registration.receipt_key,
                    shard.first_layer,
                    shard.end_layer,
                )
                for shard in item.event.shards
                if isinstance(known := view.nodes.get(shard.node_id), node.Present | node.Gone)
            )
    return ()
