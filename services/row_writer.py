"""Writes a batch of row changes into a generation: COPY for new rows, one UPDATE per set of columns changed.

Knows nothing of events, of the log or of checkpoints; runs in its caller's transaction.
"""

from collections import defaultdict
from typing import Any

from psycopg import sql
from sqlalchemy import Table
from sqlalchemy.dialects import postgresql

from projections.changes import Batch, Key, Pending, ProjectionBroken
from projections.tables import metadata_of
from services.database import Connection

_Shape = tuple[tuple[str, ...], tuple[str, ...]]


class RowWriter:
    """For one generation's schema."""

    def __init__(self, schema: str) -> None:
        self._tables = {table.name: table for table in metadata_of(schema).sorted_tables}
        self._updates: dict[tuple[str, _Shape], sql.Composed] = {}

    async def write(self, connection: Connection, batch: Batch) -> None:
        """All changes of a partial batch. Raises ProjectionBroken when a changed row does not exist."""
        for name, rows in batch.tables.items():
            new = [pending.row for pending in rows.values() if pending.row is not None]
            if new:
                await self._copy(connection, self._tables[name], new)
            shapes: dict[_Shape, list[tuple[Key, Pending]]] = defaultdict(list)
            for key, pending in rows.items():
                if pending.row is None:
                    shapes[tuple(sorted(pending.values)), tuple(sorted(pending.amounts))].append(
                        (key, pending)
                    )
            for shape, changed in shapes.items():
                await self._update(connection, self._tables[name], shape, changed)

    async def _copy(self, connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
        columns = [column.name for column in table.columns]
        statement = sql.SQL("COPY {} ({}) FROM STDIN").format(
            sql.Identifier(str(table.schema), table.name),
            sql.SQL(", ").join(map(sql.Identifier, columns)),
        )
        async with connection.cursor() as cursor, cursor.copy(statement) as copy:
            for row in rows:
                await copy.write_row([row[column] for column in columns])

    async def _update(
        self, connection: Connection, table: Table, shape: _Shape, changed: list[tuple[Key, Pending]]
    ) -> None:
        statement = self._updates.get((table.name, shape))
        if statement is None:
            statement = self._updates[table.name, shape] = _update_statement(table, shape)
        values, amounts = shape
        columns: list[list[Any]] = [
            *([key[place] for key, _ in changed] for place in range(len(table.primary_key))),
            *([pending.values[column] for _, pending in changed] for column in values),
            *([pending.amounts[column] for _, pending in changed] for column in amounts),
        ]
        done = await connection.execute(statement, columns)
        if done.rowcount != len(changed):
            raise ProjectionBroken(
                f"{table.name}: {len(changed) - done.rowcount} of {len(changed)} changed rows do not exist, "
                f"one of {[key for key, _ in changed[:5]]}"
            )


def _update_statement(table: Table, shape: _Shape) -> sql.Composed:
    """UPDATE ... FROM unnest(keys, values to set, amounts to add): one array per column."""
    keys = [column.name for column in table.primary_key]
    values, amounts = shape
    arrays = [
        *(sql.SQL("%s::{}[]").format(_type(table, column)) for column in (*keys, *values)),
        *(sql.SQL("%s::numeric[]") for _ in amounts),
    ]
    names = [sql.Identifier(f"c{number}") for number in range(len(arrays))]
    set_at, add_at = len(keys), len(keys) + len(values)
    assignments = [
        *(
            sql.SQL("{} = u.{}").format(sql.Identifier(column), names[set_at + number])
            for number, column in enumerate(values)
        ),
        *(
            sql.SQL("{0} = t.{0} + u.{1}").format(sql.Identifier(column), names[add_at + number])
            for number, column in enumerate(amounts)
        ),
    ]
    matches = [
        sql.SQL("t.{} = u.{}").format(sql.Identifier(column), names[number])
        for number, column in enumerate(keys)
    ]
    return sql.SQL("UPDATE {} t SET {} FROM unnest({}) AS u({}) WHERE {}").format(
        sql.Identifier(str(table.schema), table.name),
        sql.SQL(", ").join(assignments),
        sql.SQL(", ").join(arrays),
        sql.SQL(", ").join(names),
        sql.SQL(" AND ").join(matches),
    )


def _type(table: Table, column: str) -> sql.SQL:
    kind = table.columns[column].type.compile(dialect=postgresql.dialect())  # type: ignore[no-untyped-call]
    return sql.SQL(kind)
