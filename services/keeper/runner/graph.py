"""Which nodes may run next, from what became of those before: a pure function of a workflow and its
endings.

A node with several sources waits for all of them. A branch that was not taken counts as a skip; a node all
of whose sources are skips is skipped itself. A node that failed ends its branch, and what joins it further
on never runs; one that threw (it could not even be asked) still lets a join go on. Knows no action and no
journal.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from services.keeper.workflow_format import COLLECT, CONDITION, FOR_EACH, Node, Workflow


class Ending(Enum):
    """What became of a node. DISABLED: it was passed over, with null as its output."""

    DONE = "done"
    FAILED = "failed"
    THREW = "threw"
    DISABLED = "disabled"


@dataclass(frozen=True)
class Ended:
    """`branch`: which of a Condition's handles was taken."""

    how: Ending
    branch: str = ""


@dataclass(frozen=True)
class Body:
    """What a For Each repeats. `nodes` in order of first visit; `collect`: a Collect that ends it from
    inside.
    """

    nodes: tuple[str, ...]
    first: tuple[str, ...]
    collect: str | None


@dataclass(frozen=True)
class Next:
    """`ready` in the workflow's order; `skipped`: nodes that no taken branch leads to."""

    ready: tuple[str, ...]
    skipped: frozenset[str]


class _Way(Enum):
    OPEN, ARRIVED, SKIPPED, DEAD = range(4)


class LoopInvalid(Exception):
    """Two Collects end one loop, or one Collect two."""


@dataclass(frozen=True)
class Graph:
    """The top level of a workflow: what is inside a loop belongs to its For Each."""

    workflow: Workflow

    @cached_property
    def nodes(self) -> Mapping[str, Node]:
        return {node.id: node for node in self.workflow.nodes}

    @cached_property
    def targets(self) -> Mapping[str, tuple[str, ...]]:
        """All targets of a node, each once, whatever the handle."""
        return {node: tuple(dict.fromkeys(self.by_handle(node))) for node in self.nodes}

    def by_handle(self, node: str, *handles: str | None) -> Iterator[str]:
        """Targets of the edges that leave by one of the handles; of all edges when none is given."""
        for edge in self.workflow.edges:
            if edge.source == node and (not handles or edge.source_handle in handles):
                yield edge.target

    @cached_property
    def bodies(self) -> Mapping[str, Body]:
        """Of every For Each, by id. Raises LoopInvalid."""
        found = {node.id: self._body(node.id) for node in self.workflow.nodes if node.action == FOR_EACH}
        owners: dict[str, str] = {}
        for loop, body in found.items():
            collects = {
                target for target in self.by_handle(loop, "done") if self.nodes[target].action == COLLECT
            }
            for collect in collects | ({body.collect} if body.collect else set()):
                if owners.setdefault(collect, loop) != loop:
                    raise LoopInvalid(f"{loop} and {owners[collect]} end in the same Collect {collect}")
        return found

    @cached_property
    def inside(self) -> frozenset[str]:
        """Nodes that run once per iteration of some loop."""
        return frozenset(node for body in self.bodies.values() for node in body.nodes)

    @cached_property
    def _sources(self) -> Mapping[str, tuple[str, ...]]:
        found: dict[str, list[str]] = {node: [] for node in self.nodes if node not in self.inside}
        for source in found:
            for target in self.after(source):
                if target in found and source not in found[target]:
                    found[target].append(source)
        return {node: tuple(sources) for node, sources in found.items()}

    def after(self, node: str) -> tuple[str, ...]:
        """Where a node of the top level leads; a loop to what comes once it is done."""
        if node not in self.bodies:
            return self.targets[node]
        body = self.bodies[node]
        done = tuple(dict.fromkeys(self.by_handle(node, "done")))
        if any(self.nodes[target].action == COLLECT for target in done) or body.collect is None:
            return done
        return (*done, body.collect)

    def next(self, ended: Mapping[str, Ended]) -> Next:
        """What may run, given what became of the nodes so far."""
        skipped: set[str] = set()
        ready: list[str] = []
        for node in self._ordered:
            if node in ended:
                continue
            ways = [self._way(source, node, ended, skipped) for source in self._sources[node]]
            if ways and all(way is _Way.SKIPPED for way in ways):
                skipped.add(node)
            elif _Way.ARRIVED in ways and all(way in (_Way.ARRIVED, _Way.SKIPPED) for way in ways):
                ready.append(node)
        return Next(tuple(ready), frozenset(skipped))

    def taken(self, node: str, branch: str) -> tuple[str, ...]:
        """Targets of a Condition that was decided; an edge without a handle is the true one."""
        handles = ("true", None) if branch == "true" else ("false",)
        return tuple(dict.fromkeys(self.by_handle(node, *handles)))

    def _way(self, source: str, node: str, ended: Mapping[str, Ended], skipped: set[str]) -> _Way:
        if source in skipped:
            return _Way.SKIPPED
        found = ended.get(source)
        if found is None:
            return _Way.OPEN
        if found.how is Ending.FAILED:
            return _Way.DEAD
        if found.how is Ending.THREW:
            return _Way.ARRIVED if len(self._sources[node]) > 1 else _Way.DEAD
        if found.how is Ending.DONE and self.nodes[source].action == CONDITION:
            return _Way.ARRIVED if node in self.taken(source, found.branch) else _Way.SKIPPED
        return _Way.ARRIVED

    @cached_property
    def _ordered(self) -> tuple[str, ...]:
        """Every node after its sources."""
        waits = {node: set(sources) for node, sources in self._sources.items()}
        found: list[str] = []
        while free := [node for node, sources in waits.items() if not sources - set(found)]:
            found += free
            for node in free:
                del waits[node]
        return tuple(found)

    def _body(self, loop: str) -> Body:
        handled = [edge for edge in self.workflow.edges if edge.source == loop and edge.source_handle]
        first = tuple(dict.fromkeys(self.by_handle(loop, "loop") if handled else self.targets[loop]))
        queue, seen, nodes, collect = [(node, 0) for node in first], set[str](), list[str](), None
        while queue:
            node, depth = queue.pop(0)
            if node in seen:
                continue
            seen.add(node)
            action = self.nodes[node].action
            if action == COLLECT and depth == 0:
                if collect is not None:
                    raise LoopInvalid(f"{loop} ends in two Collects, {collect} and {node}")
                collect = node
                continue
            nodes.append(node)
            on = self._on(node)
            ends_in_collect = any(self.nodes[target].action == COLLECT for target in on)
            opens = action == FOR_EACH and (ends_in_collect or not self._has_handles(node))
            queue += [(target, depth + opens - (action == COLLECT)) for target in on]
        return Body(tuple(nodes), first, collect)

    def _on(self, node: str) -> tuple[str, ...]:
        """Inside a body: a loop in it goes on where it is done, its own body is its own business."""
        if self.nodes[node].action == FOR_EACH and self._has_handles(node):
            return tuple(dict.fromkeys(self.by_handle(node, "done")))
        return self.targets[node]

    def _has_handles(self, node: str) -> bool:
        return any(edge.source == node and edge.source_handle for edge in self.workflow.edges)
