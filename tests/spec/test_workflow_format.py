"""The export format: our schema and our reader agree on the shape, the reader also on what the shape can't
say.
"""

import copy
import json
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest

from services.keeper.workflow_format import SCHEMA, WorkflowInvalid, content_hash, lint, parse
from tests.contract.runner.conformance.row import export, keep, node

VALID = export(
    "a workflow",
    (
        node("if", "Condition", condition="true"),
        keep("a", "{{@trigger:Trigger.x}}"),
        node("loop", "For Each"),
    ),
    "trigger>if if:true>a if:false>loop",
)
SHAPE: dict[str, Callable[[Any], Any]] = {
    "another version": lambda d: d.update(version=2),
    "no version": lambda d: d.pop("version"),
    "an unknown key": lambda d: d.update(stray=1),
    "an unknown key of a node": lambda d: d["nodes"][0].update(stray=1),
    "an unknown key of a node's data": lambda d: d["nodes"][0]["data"].update(stray=1),
    "an unknown key of an edge": lambda d: d["edges"][0].update(stray=1),
    "no name": lambda d: d["workflow"].update(name=""),
    "a name that is too long": lambda d: d["workflow"].update(name="x" * 201),
    "a label that is too long": lambda d: d["nodes"][0]["data"].update(label="x" * 501),
    "no position": lambda d: d["nodes"][0].pop("position"),
    "no time of the export": lambda d: d.update(exportedAt="yesterday"),
    "an unknown handle": lambda d: d["edges"][1].update(sourceHandle="maybe"),
    "too many nodes": lambda d: d.update(nodes=d["nodes"] * 51),
    "too many edges": lambda d: d.update(edges=d["edges"] * 167),
    "a placeholder": lambda d: d["nodes"][0]["data"].update(type="add"),
    "a configuration that is no object": lambda d: d["nodes"][1]["data"].update(config=[]),
    "a binding to no kind": lambda d: d["integrationBindings"].append({"nodeId": "a"}),
}
MEANING: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "two nodes of one id": ("same id", lambda d: d["nodes"][1].update(id="a")),
    "two edges of one id": ("same id", lambda d: d["edges"][1].update(id="e0")),
    "an edge from nowhere": ("there is no node", lambda d: d["edges"][0].update(source="nobody")),
    "an edge to nowhere": ("there is no node", lambda d: d["edges"][0].update(target="nobody")),
    "a trigger in the middle": (
        "nothing leads to a trigger",
        lambda d: d["edges"][1].update(target="trigger"),
    ),
    "no trigger": ("one trigger", lambda d: d["nodes"].pop(0)),
    "an unknown trigger": (
        "triggerType",
        lambda d: d["nodes"][0]["data"].update(config={"triggerType": "webhook"}),
    ),
    "a Condition's edge by a loop's handle": (
        "no handle",
        lambda d: d["edges"][1].update(sourceHandle="loop"),
    ),
    "a handle of a trigger": ("no handle", lambda d: d["edges"][0].update(sourceHandle="true")),
    "a circle": ("circle", lambda d: d["edges"].append({"id": "back", "source": "a", "target": "if"})),
    "a webhook in the clear": (
        "https",
        lambda d: d["nodes"][2]["data"]["config"].update(webhookUrl="http://example.org"),
    ),
    "a binding to nobody": (
        "no node",
        lambda d: d["integrationBindings"].append({"nodeId": "nobody", "integrationType": "web3"}),
    ),
    "a binding of another kind": (
        "another integrationType",
        lambda d: (
            d["nodes"][2]["data"]["config"].update(integrationType="discord"),
            d["integrationBindings"].append({"nodeId": "a", "integrationType": "web3"}),
        ),
    ),
}


def changed(change: Callable[[Any], Any]) -> Any:
    made = copy.deepcopy(VALID)
    change(made)
    return made


def schema() -> Any:
    return json.loads(SCHEMA.read_bytes())


def test_a_valid_export_is_read_and_nothing_in_it_is_suspicious() -> None:
    jsonschema.validate(VALID, schema())
    found = parse(VALID)
    assert (found.name, len(found.nodes), len(found.edges)) == ("a workflow", 4, 3)
    assert found.trigger.id == "trigger"
    assert lint(found) == ()


@pytest.mark.parametrize("change", SHAPE.values(), ids=SHAPE)
def test_the_schema_and_the_reader_refuse_the_same_shapes(change: Callable[[Any], Any]) -> None:
    wrong = changed(change)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, schema())
    with pytest.raises(WorkflowInvalid):
        parse(wrong)


@pytest.mark.parametrize(("why", "change"), MEANING.values(), ids=MEANING)
def test_the_reader_refuses_what_makes_no_sense(why: str, change: Callable[[Any], Any]) -> None:
    wrong = changed(change)
    jsonschema.validate(wrong, schema())
    with pytest.raises(WorkflowInvalid, match=why):
        parse(wrong)


def test_what_is_valid_and_bound_to_surprise_is_said() -> None:
    def suspicious(made: Any) -> None:
        made["nodes"][2]["data"]["label"] = "Step.one"
        made["nodes"][2]["data"]["config"] |= {
            "integrationId": "x",
            "network": 1,
            "value": "{{Trigger.x}} {{@no:No.x}}",
        }

    warnings = " ".join(lint(parse(changed(suspicious))))
    for said in (
        "dot",
        "integrationId",
        "chain id as a text",
        "{{Trigger.x}} names a label",
        "{{@no:No.x}} refers to",
    ):
        assert said in warnings


def test_the_content_is_the_same_whenever_it_was_exported() -> None:
    later = changed(lambda made: made.update(exportedAt="2027-01-01T00:00:00.000Z"))
    assert content_hash(later) == content_hash(VALID)
    assert content_hash(changed(lambda made: made["workflow"].update(name="b"))) != content_hash(VALID)
