"""What each run was told about calling back, written down before it is executed: it stays the same for ever.

A backend refuses another input under the same key, so a run that a dead keeper had executed must not be told
another address or secret by the next one. Knows no backend.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from events.workflow import Requested
from services.database import ENGINE_AWAY
from services.keeper.backend import BackendAway
from services.keeper.callbacks import Callbacks

KEPT_DAYS = 30


@dataclass(frozen=True)
class Grants:
    """`callbacks`: what a run that is new here is told."""

    engine: AsyncEngine
    callbacks: Callbacks

    async def input(self, run_id: str, requested: Requested, at_unix_ms: int) -> Mapping[str, str]:
        """The first one that this run was given. Raises BackendAway: nothing was executed."""
        new = self.callbacks.input(run_id, requested, at_unix_ms)
        values = {"run_id": run_id, "url": new["callback_url"], "secret": new["callback_secret"]}
        try:
            async with self.engine.begin() as connection:
                await connection.execute(_GRANT, values)
                row = (await connection.execute(_GRANTED, {"run_id": run_id})).one()
        except ENGINE_AWAY as away:
            raise BackendAway(str(away)) from away
        return {"callback_url": row.url, "callback_secret": row.secret}

    async def prune(self) -> int:
        """Forget what is older than KEPT_DAYS; how many."""
        async with self.engine.begin() as connection:
            return (await connection.execute(_PRUNE, {"days": KEPT_DAYS})).rowcount


_GRANT = text(
    "INSERT INTO webhook_grants (run_id, url, secret) VALUES (:run_id, :url, :secret) ON CONFLICT DO NOTHING"
)
_GRANTED = text("SELECT url, secret FROM webhook_grants WHERE run_id = :run_id")
_PRUNE = text("DELETE FROM webhook_grants WHERE granted_at < now() - make_interval(days => :days)")
