"""Callbacks and deliveries that are old enough are forgotten. Knows neither's content."""

import asyncio

import structlog
from sqlalchemy.exc import SQLAlchemyError

from services.keeper.deliveries import Deliveries
from services.keeper.inbox import Inbox

EVERY_S = 3600.0

log = structlog.get_logger("forgetting")


async def forget_old(inbox: Inbox, deliveries: Deliveries) -> None:
    """Forever, once an hour. A database that is away is asked again an hour later."""
    while True:
        try:
            await inbox.prune()
            await deliveries.prune()
        except (SQLAlchemyError, OSError) as away:
            log.warning("forgetting_delayed", why=str(away)[:200])
        await asyncio.sleep(EVERY_S)
