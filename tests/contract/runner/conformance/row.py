"""A row of the conformance table: a workflow, an input, and what any backend has to make of it.

Knows no backend. `node` and `edges` write a workflow as short as it can be read; `export` makes it whole.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Nodes = tuple[dict[str, Any], ...]
AT = "2026-01-01T00:00:00Z"


@dataclass(frozen=True)
class Row:
    """`ran`: every node that has to have an entry in the logs; `outputs` and `inputs` name what has to be
    in them.

    `error` is part of the run's error. `echo`: needs the local HTTP server, whose address is in the input.
    """

    name: str
    nodes: Nodes
    edges: str
    input: Mapping[str, Any] = field(default_factory=dict)
    status: str = "success"
    outputs: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)
    ran: str | None = None
    error: str | None = None
    echo: bool = False


def node(
    node_id: str, action: str, label: str | None = None, *, enabled: bool = True, **config: Any
) -> dict[str, Any]:
    """Labels are the id with a capital unless given."""
    said = {key: json.dumps(value) if key in ("httpHeaders",) else value for key, value in config.items()}
    data = {
        "type": "action",
        "label": node_id.title() if label is None else label,
        "config": {"actionType": action, **said} if action else said,
        "enabled": enabled,
    }
    return {"id": node_id, "type": "action", "position": {"x": 0, "y": 0}, "data": data}


def keep(node_id: str, value: Any, **more: Any) -> dict[str, Any]:
    """The plainest action there is: it keeps a value. Its input shows what templates made of it."""
    return node(node_id, "State Set", key=node_id, value=value, **more)


def rule(left: str, operator: str, right: str = "") -> dict[str, Any]:
    """A `conditionConfig` of one rule."""
    return {"group": all_of(rule_of(left, operator, right))}


def rule_of(left: str, operator: str, right: str = "") -> dict[str, Any]:
    return {"id": "r", "leftOperand": left, "operator": operator, "rightOperand": right}


def all_of(*rules: dict[str, Any], logic: str = "AND") -> dict[str, Any]:
    return {"id": "g", "logic": logic, "rules": list(rules)}


def export(name: str, nodes: Nodes, edges: str, trigger: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """`edges`: "trigger>a a:true>b"; the trigger is a Webhook labelled Trigger."""
    first = {
        "id": "trigger",
        "type": "trigger",
        "position": {"x": 0, "y": 0},
        "data": {
            "type": "trigger",
            "label": "Trigger",
            "config": dict(trigger or {"triggerType": "Webhook"}),
        },
    }
    made = []
    for number, written in enumerate(edges.split()):
        source, target = written.split(">")
        source, _, handle = source.partition(":")
        edge = {"id": f"e{number}", "source": source, "target": target}
        made.append({**edge, "sourceHandle": handle} if handle else edge)
    return {
        "version": 1,
        "exportedAt": AT,
        "workflow": {"name": name},
        "nodes": [first, *nodes],
        "edges": made,
        "integrationBindings": [],
    }
