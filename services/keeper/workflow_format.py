"""A workflow as KeeperHub exports it, version 1: read strictly into frozen values, or refused by one error.

`workflow-v1.schema.json` says the same of the shape to any other program; what a schema can't say (edges lead
somewhere, no circle, handles fit their node) is checked here. Runs nothing and resolves no template.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

SCHEMA = Path(__file__).with_name("workflow-v1.schema.json")
TRIGGERS = ("Manual", "Schedule", "Webhook", "Event", "Block", "Transfer")
CONDITION, FOR_EACH, COLLECT = "Condition", "For Each", "Collect"
HANDLES: Mapping[str, tuple[str, ...]] = {CONDITION: ("true", "false"), FOR_EACH: ("loop", "done")}
"""Which handles an edge may leave an action by; all other actions have none."""

REFERENCE = re.compile(r"\{\{@([^:}]+):([^}]+)\}\}")
BRITTLE = re.compile(r"\{\{[^@}][^}]*\}\}")

Id = Annotated[str, Meta(min_length=1)]
Handle = Literal["true", "false", "loop", "done"]


class WorkflowInvalid(Exception):
    """workflow_invalid: this is no version 1 export; the message says where and why."""

    code = "workflow_invalid"


class _Strict(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    pass


class Position(_Strict, frozen=True):
    x: float
    y: float


class NodeData(_Strict, frozen=True):
    """`config` is free: every action has its own keys. A node that is not enabled passes null on."""

    label: Annotated[str, Meta(max_length=500)]
    type: Literal["trigger", "action"]
    description: Annotated[str, Meta(max_length=2000)] = ""
    config: dict[str, Any] = {}
    status: Literal["idle", "running", "success", "error"] = "idle"
    enabled: bool = True


class Node(_Strict, frozen=True):
    id: Id
    type: str
    position: Position
    data: NodeData

    @property
    def action(self) -> str:
        """Its action type; "" for a trigger, or when none was chosen."""
        chosen = self.data.config.get("actionType") if self.data.type == "action" else None
        return chosen if isinstance(chosen, str) else ""

    @property
    def name(self) -> str:
        """What logs call it."""
        return self.data.label or self.action or str(self.data.config.get("triggerType") or self.data.type)


class Edge(_Strict, frozen=True):
    id: Id
    source: str
    target: str
    type: str = "default"
    source_handle: Handle | None = None
    target_handle: str | None = None
    label: str = ""
    data: Any = None


class Named(_Strict, frozen=True):
    name: Annotated[str, Meta(min_length=1, max_length=200)]
    description: Annotated[str, Meta(max_length=2000)] = ""


class Binding(_Strict, frozen=True):
    node_id: Id
    integration_type: Id


class Workflow(_Strict, frozen=True):
    version: Literal[1]
    exported_at: Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$")]
    workflow: Named
    nodes: Annotated[tuple[Node, ...], Meta(max_length=200)]
    edges: Annotated[tuple[Edge, ...], Meta(max_length=500)]
    integration_bindings: tuple[Binding, ...]

    @property
    def name(self) -> str:
        return self.workflow.name

    @property
    def trigger(self) -> Node:
        return next(node for node in self.nodes if node.data.type == "trigger")

    def node(self, node_id: str) -> Node:
        return next(node for node in self.nodes if node.id == node_id)


def parse(definition: Mapping[str, Any]) -> Workflow:
    """Raises WorkflowInvalid."""
    try:
        found = msgspec.convert(definition, Workflow)
    except msgspec.ValidationError as wrong:
        raise WorkflowInvalid(str(wrong)) from wrong
    for why in _contradictions(found):
        raise WorkflowInvalid(why)
    return found


def content_hash(definition: Mapping[str, Any]) -> str:
    """SHA-256, hex, of everything but the time of the export."""
    said = {key: value for key, value in definition.items() if key != "exportedAt"}
    return hashlib.sha256(json.dumps(said, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def lint(found: Workflow) -> tuple[str, ...]:
    """What is valid and bound to surprise: each as a sentence that names the node."""
    known = {node.id for node in found.nodes}
    warnings = []
    for node in found.nodes:
        if "." in node.data.label:
            warnings.append(f"{node.id}: a label with a dot is cut at the dot by templates")
        if "integrationId" in node.data.config:
            warnings.append(f"{node.id}: an integrationId belongs to one organisation")
        if not isinstance(node.data.config.get("network", ""), str):
            warnings.append(f"{node.id}: network is a chain id as a text")
        for text in _texts(node.data.config):
            warnings += [
                f"{node.id}: {match[0]} refers to no node"
                for match in REFERENCE.finditer(text)
                if match[1].strip() not in known | {"__system"}
            ]
            warnings += [
                f"{node.id}: {match[0]} names a label, not a node" for match in BRITTLE.finditer(text)
            ]
    return tuple(warnings)


def _contradictions(found: Workflow) -> Iterator[str]:
    nodes = {node.id: node for node in found.nodes}
    if len(nodes) < len(found.nodes):
        yield "two nodes have the same id"
    if len({edge.id for edge in found.edges}) < len(found.edges):
        yield "two edges have the same id"
    triggers = [node for node in found.nodes if node.data.type == "trigger"]
    if len(triggers) != 1:
        yield f"a workflow has one trigger, this one {len(triggers)}"
    for node in triggers:
        if node.data.config.get("triggerType") not in TRIGGERS:
            yield f"nodes.{node.id}: triggerType is one of {', '.join(TRIGGERS)}"
    for edge in found.edges:
        for end in (edge.source, edge.target):
            if end not in nodes:
                yield f"edges.{edge.id}: there is no node {end}"
        if edge.target in nodes and nodes[edge.target].data.type == "trigger":
            yield f"edges.{edge.id}: nothing leads to a trigger"
        allowed = HANDLES.get(nodes[edge.source].action, ()) if edge.source in nodes else ()
        if edge.source_handle is not None and edge.source_handle not in allowed:
            yield f"edges.{edge.id}: {edge.source} has no handle {edge.source_handle}"
    for node in found.nodes:
        url = node.data.config.get("webhookUrl")
        if isinstance(url, str) and not url.startswith("https://"):
            yield f"nodes.{node.id}: webhookUrl is not https"
    for binding in found.integration_bindings:
        bound = nodes.get(binding.node_id)
        if bound is None:
            yield f"integrationBindings: there is no node {binding.node_id}"
        elif bound.data.config.get("integrationType", binding.integration_type) != binding.integration_type:
            yield f"integrationBindings: {binding.node_id} is of another integrationType"
    if _has_circle(found.nodes, found.edges):
        yield "the edges lead round in a circle"


def _has_circle(nodes: Sequence[Node], edges: Sequence[Edge]) -> bool:
    waits = {node.id: {edge.source for edge in edges if edge.target == node.id} for node in nodes}
    while free := [node for node, sources in waits.items() if not sources]:
        for node in free:
            del waits[node]
        for sources in waits.values():
            sources.difference_update(free)
    return bool(waits)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
