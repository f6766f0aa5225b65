"""Cursor pages and read-your-writes, the same for every list; knows no table."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Query

from services.gateway.auth import Here
from services.gateway.refusals import InvalidRequest, LimitTooLarge, NotYetProjected
from services.gateway.state import Gateway
from services.readmodel import Page, UnknownCursor

MAX_LIMIT = 200
AT_LEAST_WAIT_S = 5.0
MISSING_WAIT_S = 2.0

Row = dict[str, Any]


async def _fresh(
    here: Here,
    at_least: Annotated[
        int | None, Query(ge=0, le=2**53, description="wait until the read model holds this position")
    ] = None,
) -> None:
    if at_least is not None and not await here.rows.wait_for(at_least, AT_LEAST_WAIT_S):
        raise NotYetProjected(f"The read model is at {await here.rows.position()}, not yet at {at_least}.")


Fresh = Depends(_fresh)
"""A route with this dependency takes `?at_least=`."""


@dataclass(frozen=True)
class Cursor:
    """`after` is the id of the last item of the page before."""

    after: str | None
    limit: int


async def _cursor(
    after: Annotated[
        str | None, Query(pattern=r"^[0-9a-z]{26}$", description="id of the last item seen")
    ] = None,
    limit: Annotated[int, Query(ge=1, description=f"items per page, at most {MAX_LIMIT}")] = 50,
) -> Cursor:
    if limit > MAX_LIMIT:
        raise LimitTooLarge(f"limit is {limit}; at most {MAX_LIMIT} items make a page.", param="limit")
    return Cursor(after, limit)


Paging = Annotated[Cursor, Depends(_cursor)]


async def page_of(asked: Awaitable[Page], shown: Callable[[Row], Row]) -> Row:
    """{items, has_more}. Raises InvalidRequest for a cursor that is no id of this list."""
    try:
        page = await asked
    except UnknownCursor as unknown:
        raise InvalidRequest("The cursor is not the id of an item of this list.", param="after") from unknown
    return {"items": [shown(row) for row in page.items], "has_more": page.has_more}


async def found(here: Gateway, look: Callable[[], Awaitable[Row | None]]) -> Row | None:
    """A row; when it is missing, once more after the read model has caught up with the log as it is now."""
    row = await look()
    if row is None:
        await here.rows.wait_for(await here.events.last_sequence(), MISSING_WAIT_S)
        row = await look()
    return row
