"""Fills `{{...}}` in an action's configuration from the outputs of the nodes before it.

A reference is `{{@nodeId:Label.path}}`, `{{Label.path}}` (by label, ignoring case) or `{{$nodeId.path}}`; a
path is dots and `[n]`. It is looked up in the output itself, then in its `data`, then in its `result`.
Present and null fills in nothing; absent refuses the whole configuration. Texts go in raw: a quote in an
input can end the quotes around it. Runs nothing.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from services.keeper.runner.written import text

STORED = re.compile(r"\{\{@([^:]+):([^}]+)\}\}")
DISPLAYED = re.compile(r"\{\{([^@}][^}]*)\}\}")
LEFT_OVER = re.compile(r"\{\{[^}]+\}\}")
INDEXED = re.compile(r"^([^\[]*)((?:\[\d+\])+)$")
SYSTEM = "__system"


class Absent:
    """The one value of this class stands for what is not there, as opposed to null."""


ABSENT = Absent()


class Unresolved(Exception):
    """A reference to what is not there; the action is not run."""


@dataclass(frozen=True)
class Output:
    """What a node left for those after it. `data` ABSENT: it ran and gave nothing."""

    label: str
    data: Any


Outputs = Mapping[str, Output]
"""By node id."""


def system(now_unix_ms: int, iso: str) -> Output:
    """`{{@__system:System.unixTimestamp}}` and its like."""
    known = {"unixTimestamp": now_unix_ms // 1000, "unixTimestampMs": now_unix_ms, "isoTimestamp": iso}
    return Output("System", known)


def filled(value: Any, outputs: Outputs) -> Any:
    """The same configuration without references. Raises Unresolved, which names every one that is absent."""
    missing: list[str] = []

    def stored(match: re.Match[str]) -> str:
        return put(match[0], *by_id(match[1], match[2], outputs))

    def displayed(match: re.Match[str]) -> str:
        found, why = by_label(match[1], outputs)
        return put(match[0], ABSENT if found is None else found, why)

    def put(token: str, found: Any, why: str) -> str:
        if found is ABSENT:
            missing.append(f"{token} ({why})")
            return ""
        return text(found)

    def one(said: str) -> str:
        done = DISPLAYED.sub(displayed, STORED.sub(stored, said))
        missing.extend(f"{left} (left over)" for left in LEFT_OVER.findall(done))
        return done

    done = _each(value, one)
    if missing:
        raise Unresolved(f"Unresolved template reference(s): {'; '.join(missing[:5])}")
    return done


def by_id(node_id: str, rest: str, outputs: Outputs) -> tuple[Any, str]:
    """What `{{@node_id:rest}}` refers to, or ABSENT and why."""
    output = _by_id(node_id.strip(), outputs)
    if output is None:
        return ABSENT, f"node {node_id.strip()} has no output yet"
    return _in(output, path_in(rest, output.label), node_id.strip())


def by_label(reference: str, outputs: Outputs) -> tuple[Any, str]:
    """What `{{Label.path}}` or `{{$id.path}}` refers to, or ABSENT and why."""
    label, _, path = reference.partition(".")
    if label.startswith("$"):
        output = _by_id(label[1:].strip(), outputs)
    else:
        named = (found for found in outputs.values() if found.label.lower() == label.strip().lower())
        output = next(named, None)
    if output is None:
        return ABSENT, f"no node {label} has an output yet"
    return _in(output, path.strip(), label)


def path_in(rest: str, label: str) -> str:
    """`Label.a.b` -> `a.b`; a label may have dots in it when it is the node's own."""
    if rest == label:
        return ""
    if rest.startswith(f"{label}."):
        return rest[len(label) + 1 :].strip()
    return rest.partition(".")[2].strip()


def looked_up(data: Any, path: str) -> Any:
    """In the value, then in its `data`, then in its `result`; else ABSENT. Null is found like anything."""
    if not path:
        return data
    places = [data]
    if isinstance(data, dict):
        places += [
            data[wrapper] for wrapper in ("data", "result") if isinstance(data.get(wrapper), dict | list)
        ]
    found = (_walk(place, path) for place in places)
    return next((value for value in found if value is not ABSENT), ABSENT)


def _by_id(node_id: str, outputs: Outputs) -> Output | None:
    """KeeperHub keeps outputs by ids in which every other sign is an underscore."""
    if node_id in outputs:
        return outputs[node_id]
    plain = re.sub(r"[^a-zA-Z0-9]", "_", node_id)
    return next((out for key, out in outputs.items() if re.sub(r"[^a-zA-Z0-9]", "_", key) == plain), None)


def _in(output: Output, path: str, name: str) -> tuple[Any, str]:
    if output.data is ABSENT or output.data is None:
        return ABSENT, f"node {name} produced no data"
    return looked_up(output.data, path), f"{path} is not in the output of {name}"


def _walk(value: Any, path: str) -> Any:
    for part in path.split("."):
        indexed = INDEXED.match(part)
        keys: list[str | int] = [part]
        if indexed is not None:
            keys = [indexed[1]] if indexed[1] else []
            keys += [int(index) for index in re.findall(r"\d+", indexed[2])]
        for key in keys:
            value = _step(value, key)
            if value is ABSENT:
                return ABSENT
    return value


def _step(value: Any, key: str | int) -> Any:
    if isinstance(value, list) and (isinstance(key, int) or key.isdecimal()):
        return value[int(key)] if int(key) < len(value) else ABSENT
    if isinstance(value, dict) and isinstance(key, str):
        return value.get(key, ABSENT)
    if isinstance(value, list) and key == "length":
        return len(value)
    return ABSENT


def _each(value: Any, one: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return one(value)
    if isinstance(value, dict):
        return {key: _each(item, one) for key, item in value.items()}
    if isinstance(value, list):
        return [_each(item, one) for item in value]
    return value
