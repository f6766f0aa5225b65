"""What the gateway reads: nodes, pools and sessions from the live generation, and how far it has come.

Knows nothing of the log or of HTTP. Rows are dicts of JSON-ready values: times in unix ms, wei as decimal
strings.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

import psycopg
import structlog
from sqlalchemy import ColumnElement, Select, Table, distinct, exists, func, select, text
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from projections.tables import metadata_of
from services.database import AWAY, ENGINE_AWAY, connect, sqlalchemy_url
from services.generations import CHANNEL, NAME

Row = dict[str, Any]

MAX_LIMIT = 1000
_POLL_S = 0.25
"""A waiter asks the database so often in case a NOTIFY was missed."""
_TABLES: dict[str, Table] = {table.name: table for table in metadata_of(NAME).sorted_tables}
_SHOWN_MOVE = ("epoch", "from_node_id", "to_node_id", "tokens", "kv_bytes", "move_ms", "moved_unix_ms")

log = structlog.get_logger("readmodel")


class UnknownCursor(Exception):
    """unknown_cursor: `after` names nothing in this list; start again without it."""

    code = "unknown_cursor"


class ReadModelAway(Exception):
    """read_model_away: the database does not answer, or nothing was projected yet; try again shortly."""

    code = "read_model_away"


class Page(NamedTuple):
    """`has_more`: ask again with `after` = the last item's id."""

    items: list[Row]
    has_more: bool


class ReadModel:
    """Safe for many tasks at once. Every method raises ReadModelAway."""

    def __init__(self, engine: AsyncEngine, url: str) -> None:
        self._engine = engine
        self._url = url
        self._applied = 0
        self._moved = asyncio.Condition()
        self._listening = asyncio.create_task(self._listen(), name="readmodel-listen")

    @classmethod
    async def open(cls, database_url: str) -> "ReadModel":
        """Connects when first asked something; a database that is away now may come later."""
        engine = create_async_engine(
            sqlalchemy_url(database_url),
            pool_size=8,
            max_overflow=8,
            pool_pre_ping=True,
            isolation_level="REPEATABLE READ",
            connect_args={"prepare_threshold": None, "application_name": "computepool-readmodel"},
        )
        return cls(engine, database_url)

    async def close(self) -> None:
        self._listening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._listening
        await self._engine.dispose()

    async def position(self) -> int:
        """Sequence of the last message applied (0: none yet)."""
        async with self._reading() as connection:
            found = await connection.execute(
                text("SELECT sequence FROM projection_generations WHERE name = :name AND status = 'live'"),
                {"name": NAME},
            )
            applied = int(found.scalar() or 0)
        await self._advance(applied)
        return applied

    async def wait_for(self, sequence: int, timeout_s: float) -> bool:
        """Until a sequence is applied, so that a writer reads its own write; False when it takes too long."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while self._applied < sequence:
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                return await self.position() >= sequence
            try:
                async with asyncio.timeout(min(left, _POLL_S)), self._moved:
                    await self._moved.wait_for(lambda: self._applied >= sequence)
            except TimeoutError:
                await self.position()
        return True

    async def nodes(self, after: str | None = None, limit: int = 100) -> Page:
        """Newest first. Raises UnknownCursor."""
        async with self._reading() as connection:
            page = await _page(connection, "nodes", after, limit)
        return Page([_node(row) for row in page.items], page.has_more)

    async def node(self, node_id: str) -> Row | None:
        """One node, with `pools`: the ids of the pools it is a member of."""
        members = _TABLES["pool_members"].c
        async with self._reading() as connection:
            row = await _one(connection, "nodes", _TABLES["nodes"].c.id == node_id)
            if row is None:
                return None
            pools = await _all(connection, select(members.pool_id).where(members.node_id == node_id))
        return _node(row) | {"pools": sorted(item["pool_id"] for item in pools)}

    async def pools(self, after: str | None = None, limit: int = 100) -> Page:
        """Newest first, each as `pool` gives it. Raises UnknownCursor."""
        async with self._reading() as connection:
            page = await _page(connection, "pools", after, limit)
            return Page(await _with_parts(connection, page.items), page.has_more)

    async def pool(self, pool_id: str) -> Row | None:
        """One pool, with `members`, `shards` (of the serving epoch, in ring order) and `planned_shards`."""
        return await self._pool(_TABLES["pools"].c.id == pool_id)

    async def pool_by_name(self, name: str) -> Row | None:
        """The newest pool of that name that has not retired; one that serves before one that does not."""
        pools = _TABLES["pools"].c
        return await self._pool((pools.name == name) & ~pools.retired)

    async def pool_of_coalition(self, coalition: str) -> Row | None:
        """The pool that this contract's epochs pay for."""
        return await self._pool(_TABLES["pools"].c.coalition == coalition)

    async def _pool(self, where: ColumnElement[bool]) -> Row | None:
        pools = _TABLES["pools"].c
        async with self._reading() as connection:
            rows = await _all(
                connection,
                select(_TABLES["pools"])
                .where(where)
                .order_by(pools.serving_epoch.is_(None), pools.created_position.desc())
                .limit(1),
            )
            return (await _with_parts(connection, rows))[0] if rows else None

    async def sessions(
        self,
        after: str | None = None,
        limit: int = 100,
        payer: str | None = None,
        pool_id: str | None = None,
    ) -> Page:
        """Newest first, of one payer or one pool if given. Raises UnknownCursor."""
        wanted = {"payer": payer, "pool_id": pool_id}
        async with self._reading() as connection:
            return await _page(connection, "sessions", after, limit, wanted)

    async def slashes(self, after: str | None = None, limit: int = 100) -> Page:
        """Breaches, newest first. Raises UnknownCursor."""
        async with self._reading() as connection:
            return await _page(connection, "slashes", after, limit)

    async def session(self, session_id: str) -> Row | None:
        """One session, with its `request_list`, oldest first, each with the `moves` of its KV."""
        requests, moves = _TABLES["requests"], _TABLES["kv_moves"]
        async with self._reading() as connection:
            row = await _one(connection, "sessions", _TABLES["sessions"].c.id == session_id)
            if row is None:
                return None
            chosen = select(requests).where(requests.c.session_id == session_id)
            row["request_list"] = await _all(connection, chosen.order_by(requests.c.created_position))
            moved = select(moves).where(moves.c.session_id == session_id).order_by(moves.c.position)
            found = await _all(connection, moved)
        for request in row["request_list"]:
            request["moves"] = [
                {key: move[key] for key in _SHOWN_MOVE}
                for move in found
                if move["request_id"] == request["id"]
            ]
        return row

    async def ledger_of(self, session_id: str) -> list[Row]:
        """Who paid and received what in one session, in the log's order; `account` None is the payer."""
        entries = _TABLES["ledger"]
        async with self._reading() as connection:
            chosen = select(entries).where(entries.c.session_id == session_id)
            return await _all(connection, chosen.order_by(entries.c.position, entries.c.entry))

    async def accounts(self, limit: int) -> dict[str, list[Row]]:
        """Sums of everything, the largest first: what operators received and lost, payers paid and got."""
        entries, paying = _TABLES["ledger"].c, _TABLES["sessions"].c
        sessions = func.count(distinct(entries.session_id)).label("sessions")

        def total(kind: str) -> ColumnElement[Any]:
            amount = func.coalesce(func.sum(entries.amount_wei).filter(entries.kind == kind), 0)
            return amount.label(f"{kind}_wei")

        async with self._reading() as connection:
            received = select(entries.account, total("streamed"), sessions).where(entries.kind == "streamed")
            operators = received.group_by(entries.account).order_by(total("streamed").desc(), entries.account)
            paid = select(
                paying.payer.label("account"), total("voucher"), total("refund"), total("penalty"), sessions
            ).join(_TABLES["sessions"], paying.id == entries.session_id)
            payers = paid.group_by(paying.payer).order_by(total("voucher").desc(), paying.payer)
            cases = _TABLES["slashes"].c
            lost = func.sum(cases.to_payer_micro + cases.to_treasury_micro).label("slashed_micro")
            got = func.sum(cases.to_payer_micro).label("compensated_micro")
            count = func.count().label("slashes")
            executed = cases.to_payer_micro.is_not(None)
            slashed = select(cases.operator.label("account"), lost, count).where(executed)
            slashed = slashed.group_by(cases.operator).order_by(lost.desc(), cases.operator)
            compensated = select(cases.payer.label("account"), got, count).where(executed)
            compensated = compensated.group_by(cases.payer).order_by(got.desc(), cases.payer)
            return {
                "operators": await _all(connection, operators.limit(limit)),
                "payers": await _all(connection, payers.limit(limit)),
                "slashed": await _all(connection, slashed.limit(limit)),
                "compensated": await _all(connection, compensated.limit(limit)),
            }

    async def run(self, run_id: str) -> Row | None:
        """A keeper run with its transactions."""
        sent = _TABLES["workflow_transactions"].c
        async with self._reading() as connection:
            row = await _one(connection, "workflows", _TABLES["workflows"].c.id == run_id)
            if row is not None:
                chosen = select(sent.node_id, sent.iteration, sent.chain_id, sent.tx)
                row["transactions"] = await _all(
                    connection, chosen.where(sent.run_id == run_id).order_by(sent.number)
                )
        return row

    async def runs(self, subject_id: str | None, limit: int) -> list[Row]:
        """The newest first; `subject_id`: only those of one session, pool or slash."""
        found = _TABLES["workflows"]
        chosen = (
            select(found) if subject_id is None else select(found).where(found.c.subject_id == subject_id)
        )
        async with self._reading() as connection:
            return await _all(connection, chosen.order_by(found.c.created_position.desc()).limit(limit))

    async def flowing(self, limit: int) -> list[str]:
        """Sessions whose money flows now, the newest first."""
        streams = _TABLES["streams"]
        async with self._reading() as connection:
            chosen = select(streams.c.id).where(streams.c.status == "flowing")
            newest = chosen.order_by(streams.c.created_position.desc()).limit(limit)
            return [str(row["id"]) for row in await _all(connection, newest)]

    @contextlib.asynccontextmanager
    async def _reading(self) -> AsyncIterator[AsyncConnection]:
        """One snapshot for everything read inside."""
        try:
            async with self._engine.connect() as connection:
                yield connection
        except ProgrammingError as missing:
            if isinstance(missing.orig, psycopg.errors.UndefinedTable | psycopg.errors.InvalidSchemaName):
                raise ReadModelAway("nothing was projected yet") from missing
            raise
        except ENGINE_AWAY as away:
            raise ReadModelAway(str(away.orig if isinstance(away, DBAPIError) else away)) from away

    async def _listen(self) -> None:
        """Hear of every commit of the projector; connect again for as long as it takes."""
        while True:
            try:
                async with await connect(self._url, "readmodel-listen", autocommit=True) as connection:
                    await connection.execute(f"LISTEN {CHANNEL}".encode())
                    with contextlib.suppress(ReadModelAway):
                        await self.position()
                    async for told in connection.notifies():
                        await self._advance(int(told.payload))
            except AWAY as away:
                log.warning("listen_lost", why=str(away).strip())
                await asyncio.sleep(1)

    async def _advance(self, applied: int) -> None:
        if applied > self._applied:
            async with self._moved:
                self._applied = max(applied, self._applied)
                self._moved.notify_all()


async def _page(
    connection: AsyncConnection,
    name: str,
    after: str | None,
    limit: int,
    wanted: Mapping[str, str | None] | None = None,
) -> Page:
    table = _TABLES[name]
    limit = max(1, min(limit, MAX_LIMIT))
    chosen = select(table)
    for column, value in (wanted or {}).items():
        if value is not None:
            chosen = chosen.where(table.c[column] == value)
    if after is not None:
        cursor = await _one(connection, name, table.c.id == after)
        if cursor is None:
            raise UnknownCursor(f"no {name.removesuffix('s')} {after!r}")
        chosen = chosen.where(table.c.created_position < cursor["created_position"])
    rows = await _all(connection, chosen.order_by(table.c.created_position.desc()).limit(limit + 1))
    return Page(rows[:limit], len(rows) > limit)


async def _with_parts(connection: AsyncConnection, pools: list[Row]) -> list[Row]:
    """Pools with their members and shards, in two queries for all of them."""
    ids = [row["id"] for row in pools]
    members, shards = _TABLES["pool_members"], _TABLES["pool_shards"]
    accepted = await _all(
        connection, select(members).where(members.c.pool_id.in_(ids)).order_by(members.c.position)
    )
    planned = await _all(
        connection,
        select(shards)
        .join(_TABLES["pools"], _TABLES["pools"].c.id == shards.c.pool_id)
        .where(shards.c.pool_id.in_(ids))
        .where(
            (shards.c.epoch == _TABLES["pools"].c.serving_epoch)
            | (shards.c.epoch == _TABLES["pools"].c.planned_epoch)
        )
        .order_by(shards.c.epoch, shards.c.ring_index),
    )

    serving = shards.alias("serving")
    left = await _all(
        connection,
        select(shards)
        .join(_TABLES["pools"], _TABLES["pools"].c.id == shards.c.pool_id)
        .where(shards.c.pool_id.in_(ids))
        .where((shards.c.epoch < _TABLES["pools"].c.serving_epoch) & (shards.c.state == "ready"))
        .where(
            ~exists().where(
                (serving.c.pool_id == shards.c.pool_id)
                & (serving.c.epoch == _TABLES["pools"].c.serving_epoch)
                & (serving.c.node_id == shards.c.node_id)
            )
        )
        .order_by(shards.c.epoch, shards.c.ring_index),
    )

    def of(pool_id: str, epoch: int | None) -> list[Row]:
        return [row for row in planned if row["pool_id"] == pool_id and row["epoch"] == epoch]

    return [
        row
        | {
            "status": "retired"
            if row["retired"]
            else "forming"
            if row["serving_epoch"] is None
            else "active",
            "members": [member for member in accepted if member["pool_id"] == row["id"]],
            "shards": of(row["id"], row["serving_epoch"]),
            "planned_shards": of(row["id"], row["planned_epoch"]),
            "leaving": [shard for shard in left if shard["pool_id"] == row["id"]],
        }
        for row in pools
    ]


def _node(row: Row) -> Row:
    if row["retired"]:
        status = "retired"
    elif not row["reachable"]:
        status = "lost"
    else:
        status = "draining" if row["draining"] else "active"
    return row | {"status": status}


async def _one(connection: AsyncConnection, name: str, where: ColumnElement[bool]) -> Row | None:
    rows = await _all(connection, select(_TABLES[name]).where(where).limit(1))
    return rows[0] if rows else None


async def _all(connection: AsyncConnection, chosen: Select[Any]) -> list[Row]:
    found = await connection.execute(chosen)
    return [{name: _plain(name, value) for name, value in row.items()} for row in found.mappings()]


def _plain(name: str, value: Any) -> Any:
    """Exact numbers as Python's; wei as decimal strings, because JSON readers round big numbers."""
    if isinstance(value, Decimal):
        return str(int(value)) if "wei" in name else int(value)
    return value
