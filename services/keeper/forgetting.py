"""Callbacks, deliveries and grants that are old enough are forgotten. Knows the content of none."""

import asyncio

import structlog
from sqlalchemy.exc import SQLAlchemyError

from services.keeper.deliveries import Deliveries
from services.keeper.grants import Grants
from services.keeper.inbox import Inbox

EVERY_S = 3600.0

log = structlog.get_logger("forgetting")


async def forget_old(inbox: Inbox, deliveries: Deliveries, grants: Grants) -> None:
    """Forever, once an hour. A database that is away is asked again an hour later."""
    while True:
        try:
            await inbox.prune()
            await deliveries.prune()
            await grants.prune()
        except (SQLAlchemyError, OSError) as away:
            log.warning("forgetting_delayed", why=str(away)[:200])
        await asyncio.sleep(EVERY_S)
