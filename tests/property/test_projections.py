"""The projections over random histories: pure, whatever the batches, at one with the deciders' own state."""

from hypothesis import given
from hypothesis import strategies as st

from events import node, payment, pool, session, slash, stream
from events.envelope import DECIDERS, Recorded
from projections.changes import INT64_MAX, Append, Batch, Put, storable
from projections.read_model import changes_of, fold
from projections.tables import KEYS, metadata_of
from tests.stories import Story

SEEDS = st.integers(0, 2**32)
TABLES = {table.name: table for table in metadata_of("x").sorted_tables}


def complete(history: list[Recorded]) -> Batch:
    return fold(history, Batch(KEYS, complete=True))


def merge(into: dict[str, dict[tuple[object, ...], dict[str, object]]], batch: Batch) -> None:
    """What the database does with a partial batch, in memory."""
    for table, rows in batch.tables.items():
        for key, pending in rows.items():
            if pending.row is not None:
                assert key not in into[table]
                into[table][key] = dict(pending.row)
            else:
                row = into[table][key]
                row.update(pending.values)
                for column, amount in pending.amounts.items():
                    row[column] += amount  # type: ignore[operator]


@given(SEEDS, st.integers(1, 150), st.lists(st.integers(1, 30), min_size=1, max_size=30))
def test_however_the_events_are_batched_the_rows_are_the_same(
    seed: int, count: int, sizes: list[int]
) -> None:
    history = Story(seed).recorded(count)
    rows: dict[str, dict[tuple[object, ...], dict[str, object]]] = {name: {} for name in KEYS}
    at = turn = 0
    while at < len(history):
        size = sizes[turn % len(sizes)]
        merge(rows, fold(history[at : at + size]))
        at, turn = at + size, turn + 1
    whole = complete(history)
    assert rows == {name: whole.rows(name) for name in KEYS}


@given(SEEDS, st.integers(1, 150))
def test_every_row_has_exactly_its_tables_columns(seed: int, count: int) -> None:
    whole = complete(Story(seed, strange=True).recorded(count))
    for name, table in TABLES.items():
        columns = {column.name for column in table.columns}
        required = {column.name for column in table.columns if not column.nullable}
        for row in whole.rows(name).values():
            assert row.keys() == columns
            assert all(row[column] is not None for column in required)


@given(SEEDS, st.integers(1, 150))
def test_a_change_touches_its_own_aggregates_rows_only(seed: int, count: int) -> None:
    for recorded in Story(seed).recorded(count):
        listed, *own = changes_of(recorded)
        assert listed.table == "events"
        for change in own:
            key_column = KEYS[change.table][0]
            first = change.row[key_column] if isinstance(change, Append) else change.key[0]
            assert first == recorded.aggregate_id


@given(SEEDS, st.integers(1, 200))
def test_the_rows_say_what_the_deciders_state_says(seed: int, count: int) -> None:
    history = Story(seed).recorded(count)
    whole = complete(history)
    histories: dict[tuple[str, str], list[Recorded]] = {}
    for recorded in history:
        histories.setdefault((recorded.kind, recorded.aggregate_id), []).append(recorded)
    for (kind, key), own in histories.items():
        state = DECIDERS[kind].fold(item.event for item in own)
        row = whole.rows("slashes" if kind == "slash" else kind + "s")[key,]
        assert row["position"] == own[-1].position
        match state:
            case node.Present():
                assert (row["reachable"], row["draining"]) == (state.reachable, state.draining)
                assert not row["retired"]
            case node.Gone() | pool.Closed():
                assert row["retired"]
            case pool.Forming():
                assert row["serving_epoch"] == (state.serving.epoch if state.serving else None)
                assert row["planned_epoch"] == (state.plan.epoch if state.plan else None)
                members = {node_id for pool_id, node_id in whole.rows("pool_members") if pool_id == key}
                assert members == state.members
                ready = {
                    node_id
                    for (pool_id, epoch, node_id), shard in whole.rows("pool_shards").items()
                    if pool_id == key and epoch == row["planned_epoch"] and shard["state"] == "ready"
                }
                assert ready == state.ready - state.failed
            case session.OpenSession():
                closing = {"expired": "expired", "payment_reverted": "open", None: "open"}
                assert row["status"] == closing.get(state.closing, "closing")
                assert (row["settlement_tx"] is None) == (state.settlement is None)
                assert row["running"] == len(state.running)
                assert row["requests"] == len(state.running) + len(state.ended)
            case session.Closed():
                assert row["status"] in ("settled", "expired", "unpaid")
                assert row["running"] == 0
            case payment.Paying() | payment.Unpaid():
                assert row["status"] == ("paying" if isinstance(state, payment.Paying) else "unpaid")
            case stream.Stream():
                entries = [entry for (owner, *_), entry in whole.rows("ledger").items() if owner == key]
                sums = {
                    kind: sum(int(entry["amount_wei"]) for entry in entries if entry["kind"] == kind)
                    for kind in ("streamed", "refund")
                }
                assert sums == {"streamed": state.paid_wei, "refund": state.refund_wei}
                assert row["wanted_active"] == state.wanted.active
                assert row["wanted_final"] == state.wanted.final
                facts = [fact for (owner, _), fact in whole.rows("stream_facts").items() if owner == key]
                assert sum(fact["sign"] for fact in facts) == len(state.seen)
            case slash.Slash():
                breaches = sum(vote.breach is not None for vote in state.votes)
                assert (row["votes"], row["dissents"]) == (breaches, len(state.votes) - breaches)
                assert row["statements"] == len(state.said)
                assert (row["evidence_hash"] is None) == (state.evidence is None)


@given(st.one_of(st.text(), st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False)))
def test_what_is_stored_fits_postgresql_and_ordinary_values_are_unchanged(value: object) -> None:
    kept = storable(value)
    assert type(kept) is type(value)
    if isinstance(kept, str):
        assert "\x00" not in kept
        assert len(kept) == len(str(value))
    elif isinstance(kept, int):
        assert abs(kept) <= INT64_MAX
    ordinary = not (isinstance(value, str) and "\x00" in value)
    if ordinary and not (isinstance(value, int) and abs(value) > INT64_MAX):
        assert kept == value


@given(SEEDS, st.integers(20, 150))
def test_projecting_is_pure(seed: int, count: int) -> None:
    history = Story(seed).recorded(count)
    once = [changes_of(recorded) for recorded in history]
    fold(history)
    assert [changes_of(recorded) for recorded in history] == once
    assert any(isinstance(change, Put) for changes in once for change in changes) or len(history) < 3
