"""Row changes as plain data, and the merging of many of them; knows no database and no event."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Key = tuple[Any, ...]
Row = dict[str, Any]

INT64_MAX = 2**63 - 1


class Append(NamedTuple):
    """A new row. Its key must not exist yet."""

    table: str
    row: Mapping[str, Any]


class Put(NamedTuple):
    """Set columns of a row that exists."""

    table: str
    key: Key
    values: Mapping[str, Any]


class Add(NamedTuple):
    """Add to number columns of a row that exists."""

    table: str
    key: Key
    amounts: Mapping[str, int]


Change = Append | Put | Add


class ProjectionBroken(Exception):
    """projection_broken: a change does not fit the rows (a key twice, or a row that is not there).

    The log or the read model is not what the projections were written for; rebuild, and compare.
    """

    code = "projection_broken"


def storable(value: Any) -> Any:
    """What any PostgreSQL can hold: text without NUL (shown as U+FFFD), integers cut off at 64 bits.

    Numbers and names that a stranger's machine reports must not be able to stop the projector.
    """
    if isinstance(value, str):
        return value.replace("\x00", "\ufffd") if "\x00" in value else value
    if isinstance(value, int) and not -INT64_MAX <= value <= INT64_MAX:
        return INT64_MAX if value > 0 else -INT64_MAX
    return value


@dataclass
class Pending:
    """What a batch does to one row: either the whole new row, or columns to set and amounts to add."""

    row: Row | None = None
    values: Row = field(default_factory=dict)
    amounts: dict[str, int] = field(default_factory=dict)

    def put(self, values: Mapping[str, Any]) -> None:
        target = self.values if self.row is None else self.row
        for column, value in values.items():
            target[column] = storable(value)
            self.amounts.pop(column, None)

    def add(self, amounts: Mapping[str, int]) -> None:
        for column, amount in amounts.items():
            amount = storable(amount)
            if self.row is not None:
                self.row[column] += amount
            elif column in self.values:
                self.values[column] += amount
            else:
                self.amounts[column] = self.amounts.get(column, 0) + amount


class Batch:
    """Merged changes of consecutive events: at most one Pending per row.

    With `complete=True` it starts from nothing and holds every row: the reference that a database is
    compared with. A Put or Add to a row that is not there then raises ProjectionBroken at once; for a partial
    batch the database finds out on writing.
    """

    def __init__(self, keys: Mapping[str, tuple[str, ...]], *, complete: bool = False) -> None:
        """`keys`: the key columns of every table."""
        self._keys = keys
        self._complete = complete
        self.tables: dict[str, dict[Key, Pending]] = {name: {} for name in keys}

    def apply(self, changes: Iterable[Change]) -> None:
        """Raises ProjectionBroken."""
        for change in changes:
            rows = self.tables[change.table]
            match change:
                case Append(table, row):
                    key = tuple(row[column] for column in self._keys[table])
                    if key in rows:
                        raise ProjectionBroken(f"{table} {key} twice")
                    rows[key] = Pending({column: storable(value) for column, value in row.items()})
                case Put(table, key, values):
                    self._pending(table, rows, key).put(values)
                case Add(table, key, amounts):
                    self._pending(table, rows, key).add(amounts)

    def _pending(self, table: str, rows: dict[Key, Pending], key: Key) -> Pending:
        found = rows.get(key)
        if found is None:
            if self._complete:
                raise ProjectionBroken(f"no {table} {key}")
            found = rows[key] = Pending()
        return found

    def rows(self, table: str) -> dict[Key, Row]:
        """Every row of a complete batch by key."""
        return {key: pending.row or {} for key, pending in self.tables[table].items()}
