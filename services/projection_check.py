"""Compares the read model's rows with a fresh fold of the log at the same sequence, in memory.

Knows nothing of how the rows got there; changes nothing.
"""

from decimal import Decimal
from typing import Any, NamedTuple

from psycopg import sql

from events.envelope import decode_commit
from projections.changes import Batch, Key, Row
from projections.read_model import fold
from projections.tables import KEYS, metadata_of
from services import bus, generations
from services.database import Connection, connect, database_url
from services.log import EventLog, LogRolledBack
from services.settings import Settings


class Difference(NamedTuple):
    """One value that is not what the log says; `column` None: the row is missing or too much."""

    table: str
    key: Key
    column: str | None
    expected: Any
    found: Any


class Checked(NamedTuple):
    """`sequence`: where both were compared."""

    sequence: int
    rows: int
    differences: tuple[Difference, ...]


async def check(settings: Settings) -> Checked:
    """Every row of the live generation against the log. Raises what halts a projector, and LogUnavailable."""
    client = await bus.connect(settings, "projector")
    try:
        events = await EventLog.open(client, None)
        async with await connect(database_url(settings), "check") as connection:
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            at = await generations.live(connection)
            if at is None:
                return Checked(0, 0, ())
            expected = await replayed(events, at.sequence)
            found = {table: await _rows(connection, at.schema, table) for table in KEYS}
    finally:
        await bus.close(client)
    differences = [
        difference for table in KEYS for difference in compare(table, expected.rows(table), found[table])
    ]
    return Checked(at.sequence, sum(map(len, found.values())), tuple(differences))


async def replayed(events: EventLog, up_to: int) -> Batch:
    """All rows after the message `up_to`, from the log alone. Raises LogRolledBack when it is shorter."""
    everything, sequence = Batch(KEYS, complete=True), 0
    if up_to > 0:
        async for message in events.read(0, follow=False):
            sequence = message.sequence
            fold(decode_commit(message.subject, sequence, message.headers, message.payload), everything)
            if sequence == up_to:
                break
    if sequence < up_to:
        raise LogRolledBack(f"the log ends at {sequence}, the rows stand at {up_to}")
    return everything


def compare(table: str, expected: dict[Key, Row], found: dict[Key, Row]) -> list[Difference]:
    """Pure: the values in which two sets of rows differ, in order of the keys."""
    differences = []
    for key in sorted(expected.keys() | found.keys(), key=repr):
        if key not in found:
            differences.append(Difference(table, key, None, expected[key], None))
        elif key not in expected:
            differences.append(Difference(table, key, None, None, found[key]))
        else:
            differences.extend(
                Difference(table, key, column, value, found[key].get(column))
                for column, value in expected[key].items()
                if not _same(value, found[key].get(column))
            )
    return differences


def _same(expected: Any, found: Any) -> bool:
    """The log writes wei as text, the table holds a number."""
    if isinstance(found, Decimal) and expected is not None:
        return Decimal(expected) == found
    return bool(expected == found)


async def _rows(connection: Connection, schema: str, table: str) -> dict[Key, Row]:
    columns = [column.name for column in metadata_of(schema).tables[f"{schema}.{table}"].columns]
    cursor = await connection.execute(
        sql.SQL("SELECT {} FROM {}").format(
            sql.SQL(", ").join(map(sql.Identifier, columns)), sql.Identifier(schema, table)
        )
    )
    rows = [dict(zip(columns, values, strict=True)) for values in await cursor.fetchall()]
    return {tuple(row[column] for column in KEYS[table]): row for row in rows}
