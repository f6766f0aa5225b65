"""The map of a pool's layers: what is drawn for each state, at 80 columns, and what `--json` tells."""

from typing import Any

import pytest

from services.block_map import LEGEND, drawn, maps_of, size

GIB = 2**30


def shard(node: str, first: int, end: int, state: str = "ready", **more: Any) -> dict[str, Any]:
    usual = {"error_code": None, "units": end - first, "slice_bytes": (end - first) * 100 * 2**20}
    return {"node_id": node, "first_layer": first, "end_layer": end, "state": state, **usual, **more}


def node(label: str, status: str = "reachable", used: int | None = 1) -> dict[str, Any]:
    return {"label": label, "status": status, "memory_bytes": 8 * GIB, "kv_slots_used": used}


def pool(shards: list[dict[str, Any]], layers: int, **more: Any) -> dict[str, Any]:
    return {
        "pool_id": "0" * 26,
        "name": "tales",
        "status": "active",
        "model": "tales",
        "dtype": "float32",
        "num_layers": layers,
        "kv_slots": 4,
        "serving_epoch": 1,
        "planned_epoch": 1,
        "shards": shards,
        "planned_shards": shards,
        **more,
    }


def test_each_node_is_a_row_and_each_layer_a_column() -> None:
    nodes = {"a": node("north"), "b": node("south", used=None)}
    shown = maps_of(pool([shard("a", 0, 2), shard("b", 2, 6)], 6), nodes)
    assert drawn(shown).splitlines() == [
        "pool tales  active  float32  6 layers  4 KV slots a node",
        "     00000000000000000000000000",
        "",
        "epoch 1, serving; a column is a layer",
        "node   0    5  layers state slice/memory kv  units",
        "north E##....  0-1    ready 200M/8.0G    1/4 2",
        "south  ..####H 2-5    ready 400M/8.0G    -/4 4",
        "",
        "every layer is served",
        LEGEND,
    ]


@pytest.mark.parametrize(
    ("state", "node_status", "mark", "told", "served"),
    [
        ("ready", "reachable", "#", "ready", True),
        ("ready", "draining", "#", "draining", True),
        ("loading", "reachable", "~", "loading", False),
        ("loading", "draining", "~", "loading", False),
        ("failed", "reachable", "!", "failed", False),
        ("ready", "lost", "x", "lost", False),
        ("ready", "retired", "x", "retired", False),
    ],
)
def test_a_state_has_its_mark_and_decides_whether_layers_are_served(
    state: str, node_status: str, mark: str, told: str, served: bool
) -> None:
    shards = [
        shard("a", 0, 3),
        shard("b", 3, 5, state, error_code="load_failed" if state == "failed" else None),
    ]
    shown = maps_of(pool(shards, 5), {"a": node("north"), "b": node("south", node_status)})
    text = drawn(shown)
    assert f"south  ...{mark}{mark}H 3-4    {told} " in text
    assert shown["layers_not_served"] == ([] if served else [[3, 5]])
    assert ("every layer is served" in text) == served
    if state == "failed":
        assert "not served: layers 3-4 (south: failed (load_failed))" in text


@pytest.mark.parametrize("layers", [1, 7, 28, 32, 48, 80, 126, 1000])
@pytest.mark.parametrize("parts", [1, 2, 5])
def test_any_model_fits_in_80_columns(layers: int, parts: int) -> None:
    ends = [layers * (number + 1) // parts for number in range(parts)]
    starts = [0, *ends[:-1]]
    ranges = [(first, end) for first, end in zip(starts, ends, strict=True) if end > first]
    shards = [shard(f"n{first}", first, end) for first, end in ranges]
    nodes = {one["node_id"]: node(f"a-node-with-a-very-long-label-{one['node_id']}") for one in shards}
    shown = maps_of(pool(shards, layers), nodes)
    lines = drawn(shown).splitlines()
    assert max(map(len, lines)) <= 80
    rows = [line for line in lines if line.startswith("a-node")]
    assert len(rows) == len(shards)
    maps = [row[13:].split(" ")[0 if "E" in row[13] else 1] for row in rows]
    assert len({len(cells.strip("EH")) for cells in maps}) == 1
    assert all(
        row.count("units") == 0 and row.rstrip().endswith(str(one["units"]))
        for row, one in zip(rows, shards, strict=True)
    )
    columns = len(maps[0].strip("EH"))
    assert all(any(cells.strip("EH")[column] == "#" for cells in maps) for column in range(columns))


def test_a_plan_that_loads_beside_the_one_that_serves_is_a_second_map() -> None:
    serving = [shard("a", 0, 6)]
    planned = [shard("a", 0, 3, "loading", slice_bytes=None), shard("b", 3, 6)]
    shown = maps_of(
        pool(serving, 6, planned_epoch=2, planned_shards=planned), {"a": node("north"), "b": node("south")}
    )
    text = drawn(shown)
    assert [one["epoch"] for one in shown["maps"]] == [1, 2]
    assert "epoch 1, serving" in text
    assert "epoch 2, planned" in text
    assert "north E~~~...  0-2    loading -/8.0G       1/4 3" in text
    assert "every layer is served" in text


def test_a_pool_without_a_plan_says_so() -> None:
    shown = maps_of(pool([], 6, status="proposed", serving_epoch=None, planned_epoch=None), {})
    assert "no plan yet" in drawn(shown)
    assert shown["layers_not_served"] == [[0, 6]]


def test_sizes_are_short() -> None:
    assert [size(n) for n in (None, 0, 999, 1000, 102_400, 5 * 2**20, 99 * GIB, 2**41)] == [
        "-", "0B", "999B", "1.0K", "100K", "5.0M", "99.0G", "2.0T",
    ]  # fmt: skip
