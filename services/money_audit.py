"""Hands the live log, a chain's evidence and the read model's ledger to the auditor; knows no rule."""

from pathlib import Path

from psycopg import sql

from events.envelope import decode_commit
from events.shares import WEI_PER_MICRO
from services import bus, generations
from services.auditor.money import ChainEvidence, MoneyAudit, MoneyReport
from services.chain import manifest as manifests
from services.chain.rpc import connected
from services.chain_evidence import evidence_of
from services.database import connect
from services.log import EventLog
from services.settings import Settings

LEDGER = (
    "SELECT session_id, kind, coalesce(account, ''), sum(amount_wei) FROM {}"
    " GROUP BY session_id, kind, account"
)
SLASHES = "SELECT id, to_payer_micro, to_treasury_micro FROM {} WHERE to_payer_micro IS NOT NULL"
Ledger = dict[tuple[str, str, str], int]


class ChainNotConfigured(Exception):
    """chain_not_configured: no chain runs here and CHAIN_RPC_URL is not set; `computepool up`, or --rpc."""

    code = "chain_not_configured"


async def audit(
    settings: Settings, rpc_url: str | None = None, manifest: Path | None = None
) -> tuple[MoneyReport, bool]:
    """The report, and whether a read model was there to be compared.

    The chain is read before the log: whatever it shows had time to be told. Raises ChainNotConfigured,
    NotDeployed, ChainAway, RpcRefused, BusAway, LogUnavailable, ChainLogUnreadable.
    """
    url = rpc_url or settings.chain_rpc_url
    if url is None:
        raise ChainNotConfigured(ChainNotConfigured.__doc__ or "")
    evidence = await _evidence(url, settings, manifest)
    sequence, ledger = await _ledger(settings)
    client = await bus.connect(settings, "auditor")
    found = MoneyAudit(sequence)
    try:
        async for message in (await EventLog.open(client, None)).read(0, follow=False):
            for recorded in decode_commit(
                message.subject, message.sequence, message.headers, message.payload
            ):
                found.take(recorded)
    finally:
        await bus.close(client)
    return found.report(evidence, ledger), ledger is not None


async def _evidence(url: str, settings: Settings, manifest: Path | None) -> ChainEvidence:
    async with connected(url) as rpc:
        path = manifest or settings.manifest_of(await rpc.chain_id())
        return await evidence_of(rpc, manifests.read(path))


async def _ledger(settings: Settings) -> tuple[int, Ledger | None]:
    """How far the live generation has come, and its sums; None: nothing was projected, or no database."""
    if settings.database_url is None:
        return 0, None
    async with await connect(settings.database_url.get_secret_value(), "audit") as connection:
        await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        at = await generations.live(connection)
        if at is None:
            return 0, None
        statement = sql.SQL(LEDGER).format(sql.Identifier(at.schema, "ledger"))
        rows = await (await connection.execute(statement)).fetchall()
        statement = sql.SQL(SLASHES).format(sql.Identifier(at.schema, "slashes"))
        paid = await (await connection.execute(statement)).fetchall()
    found = {(session, kind, account): int(amount) for session, kind, account, amount in rows}
    for slash_id, to_payer, to_treasury in paid:
        found[slash_id, "compensation", ""] = int(to_payer) * WEI_PER_MICRO
        found[slash_id, "treasury", ""] = int(to_treasury) * WEI_PER_MICRO
    return at.sequence, found
