"""Which node holds which layers of a pool: a plain-text map, one row a node, and the same as data; pure.

Knows the gateway's answers to /pools/{id} and /nodes, nothing of how they came.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

WIDTH = 80
LABEL = 12
MARKS = {"ready": "#", "draining": "#", "loading": "~", "failed": "!", "lost": "x", "retired": "x"}
LEGEND = "# ready  ~ loading  ! failed  x lost  . another node's  E embeddings  H head"
_ABSENT = "-"

Pool = Mapping[str, Any]
Nodes = Mapping[str, Mapping[str, Any]]


def maps_of(pool: Pool, nodes: Nodes) -> dict[str, Any]:
    """The pool's map of the epoch that serves, and of the planned one when that is another."""
    found = []
    serving, planned = pool["serving_epoch"], pool["planned_epoch"]
    if serving is not None:
        found.append({"epoch": serving, "serving": True, "rows": _rows(pool, pool["shards"], nodes)})
    if planned is not None and planned != serving:
        found.append({"epoch": planned, "serving": False, "rows": _rows(pool, pool["planned_shards"], nodes)})
    named = ("pool_id", "name", "status", "model", "dtype", "num_layers", "kv_slots")
    missing = _missing(found[0]["rows"]) if serving is not None else [[0, pool["num_layers"]]]
    return {**{name: pool[name] for name in named}, "layers_not_served": missing, "maps": found}


def _rows(pool: Pool, shards: Sequence[Mapping[str, Any]], nodes: Nodes) -> list[dict[str, Any]]:
    return [_row(pool, shard, nodes.get(shard["node_id"], {})) for shard in shards]


def _row(pool: Pool, shard: Mapping[str, Any], node: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "node_id": shard["node_id"],
        "label": node.get("label", shard["node_id"]),
        "first_layer": shard["first_layer"],
        "end_layer": shard["end_layer"],
        "embeddings": shard["first_layer"] == 0,
        "head": shard["end_layer"] == pool["num_layers"],
        "state": _state(shard, node.get("status")),
        "error_code": shard["error_code"],
        "units": shard["units"],
        "slice_bytes": shard["slice_bytes"],
        "memory_bytes": node.get("memory_bytes"),
        "kv_slots": pool["kv_slots"],
        "kv_slots_used": node.get("kv_slots_used"),
    }


def _state(shard: Mapping[str, Any], node_status: str | None) -> str:
    """The node's, when that decides: a shard of a lost node is lost, whatever it last said."""
    if node_status in ("lost", "retired"):
        return node_status
    if node_status == "draining" and shard["state"] == "ready":
        return "draining"
    return str(shard["state"])


def _missing(rows: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    served = ("ready", "draining")
    return [[row["first_layer"], row["end_layer"]] for row in rows if row["state"] not in served]


def drawn(shown: Mapping[str, Any], width: int = WIDTH) -> str:
    """What `maps_of` gave, as lines of at most `width` columns (from 72 on)."""
    layers = shown["num_layers"]
    lines = [
        f"pool {shown['name']}  {shown['status']}  {shown['dtype']}  {layers} layers  "
        f"{shown['kv_slots']} KV slots a node",
        f"     {shown['pool_id']}",
    ]
    if not shown["maps"]:
        lines.append("     no plan yet: POST /pools/{id}/plan makes one")
    for one in shown["maps"]:
        lines += ["", *_map(one, layers, width)]
    lines += ["", *_verdict(shown, width), LEGEND]
    return "\n".join(line[:width].rstrip() for line in lines)


def _map(one: Mapping[str, Any], layers: int, width: int) -> list[str]:
    head = ("layers", "state", "slice/memory", "kv", "units")
    told = [_told(row) for row in one["rows"]]
    sides = [max(len(cells[i]) for cells in (head, *told)) for i in range(len(head))]
    label = min(LABEL, max([4, *(len(row["label"]) for row in one["rows"])]))
    room = max(8, width - label - 3 - sum(side + 1 for side in sides))
    group = -(-layers // room)
    columns = -(-layers // group)
    scale = "a column is a layer" if group == 1 else f"a column is {group} layers"
    ruler = f"0{layers - 1:>{max(1, columns - 1)}}" if columns > len(str(layers - 1)) else "0"
    lines = [
        f"epoch {one['epoch']}, {'serving' if one['serving'] else 'planned'}; {scale}",
        _line("node", label, f" {ruler:<{columns}} ", head, sides),
    ]
    for row, cells in zip(one["rows"], told, strict=True):
        lines.append(_line(row["label"][:label], label, _cells(row, group, columns), cells, sides))
    return lines


def _line(name: str, label: int, cells: str, told: Sequence[str], sides: Sequence[int]) -> str:
    rest = " ".join(f"{text:<{side}}" for text, side in zip(told, sides, strict=True))
    return f"{name:<{label}} {cells} {rest}"


def _cells(row: Mapping[str, Any], group: int, columns: int) -> str:
    """A column is marked when one of its layers is the node's."""
    first, last = row["first_layer"] // group, (row["end_layer"] - 1) // group
    mark = MARKS.get(row["state"], "?")
    middle = "".join(mark if first <= column <= last else "." for column in range(columns))
    return ("E" if row["embeddings"] else " ") + middle + ("H" if row["head"] else " ")


def _told(row: Mapping[str, Any]) -> tuple[str, ...]:
    used = _ABSENT if row["kv_slots_used"] is None else str(row["kv_slots_used"])
    return (
        f"{row['first_layer']}-{row['end_layer'] - 1}",
        row["state"],
        f"{size(row['slice_bytes'])}/{size(row['memory_bytes'])}",
        f"{used}/{row['kv_slots']}",
        str(row["units"]),
    )


def _verdict(shown: Mapping[str, Any], width: int) -> list[str]:
    missing = shown["layers_not_served"]
    if not missing:
        return ["every layer is served"]
    ranges = ", ".join(f"{first}-{end - 1}" for first, end in missing)
    reasons = [
        f"{row['label']}: {row['state']}" + (f" ({row['error_code']})" if row["error_code"] else "")
        for one in shown["maps"][:1]
        for row in one["rows"]
        if row["state"] not in ("ready", "draining")
    ]
    why = f" ({'; '.join(reasons)})" if reasons else ""
    return textwrap.wrap(f"not served: layers {ranges}{why}", width)


def size(count: int | None) -> str:
    """Bytes as at most five characters."""
    if count is None:
        return _ABSENT
    amount, unit = float(count), "B"
    for larger in ("K", "M", "G", "T"):
        if amount < 999.5:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.0f}{unit}" if amount >= 99.5 or unit == "B" else f"{amount:.1f}{unit}"
