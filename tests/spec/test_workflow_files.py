"""The five workflow files call our contracts as they are compiled, and end every way in a callback."""

import json
import re
from typing import Any, get_args

import pytest

from events.workflow import WorkflowName
from services.chain.artifacts import artifact
from services.stack.node import ROOT

FILES = ROOT / "services" / "keeper" / "workflows"
NAMES: tuple[str, ...] = get_args(WorkflowName)
OURS = ("Coalition", "CoalitionFactory", "SessionEscrow", "SessionEscrowFactory")
REFERENCE = re.compile(r"\{\{@([^:}]+):([^.}]+)\.")


def load(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FILES / f"{name}.json").read_text())
    return found


def test_there_is_one_file_for_each_workflow_that_the_log_knows() -> None:
    assert sorted(path.stem for path in FILES.iterdir()) == sorted(NAMES)
    for name in NAMES:
        assert load(name)["workflow"]["name"] == f"computepool-{name}"


def without_internal_types(described: Any) -> Any:
    if isinstance(described, list):
        return [without_internal_types(item) for item in described]
    if isinstance(described, dict):
        kept = described.items()
        return {key: without_internal_types(value) for key, value in kept if key != "internalType"}
    return described


@pytest.mark.parametrize("name", NAMES)
def test_what_it_calls_and_reads_is_in_our_contracts(name: str) -> None:
    known = [without_internal_types(list(artifact(contract).abi)) for contract in OURS]
    for node in load(name)["nodes"]:
        config = node["data"]["config"]
        if "abi" not in config:
            continue
        (entry,) = json.loads(config["abi"])
        assert entry["name"] == config.get("abiFunction", config.get("eventName"))
        entry.pop("anonymous", None)
        assert any(
            entry == {k: v for k, v in one.items() if k != "anonymous"} for abi in known for one in abi
        )


@pytest.mark.parametrize("name", NAMES)
def test_every_reference_names_a_node_before_it_by_id_and_label(name: str) -> None:
    workflow = load(name)
    labels = {node["id"]: node["data"]["label"] for node in workflow["nodes"]}
    before: dict[str, set[str]] = {node_id: set() for node_id in labels}
    for _ in labels:
        for edge in workflow["edges"]:
            before[edge["target"]] |= {edge["source"], *before[edge["source"]]}
    for node in workflow["nodes"]:
        for node_id, label in REFERENCE.findall(json.dumps(node["data"]["config"])):
            assert labels[node_id] == label
            assert node_id in before[node["id"]]


@pytest.mark.parametrize("name", NAMES)
def test_every_way_ends_in_a_callback_that_names_its_run(name: str) -> None:
    workflow = load(name)
    sources = {(edge["source"], edge.get("sourceHandle", "")) for edge in workflow["edges"]}
    looped = {edge["target"] for edge in workflow["edges"] if edge.get("sourceHandle") == "loop"}
    for node in workflow["nodes"]:
        config = node["data"]["config"]
        kind = config.get("actionType", "trigger")
        if kind == "HTTP Request":
            assert config["endpoint"] == "{{@trigger:Trigger.callback_url}}"
            body = json.loads(config["httpBody"])
            assert body["run_key"] == "{{@trigger:Trigger.run_key}}"
            assert not any(source == node["id"] for source, _ in sources)
        elif kind == "Condition":
            assert {(node["id"], "true"), (node["id"], "false")} <= sources
        elif kind == "For Each":
            assert {(node["id"], "loop"), (node["id"], "done")} <= sources
        elif node["id"] not in looped:
            assert (node["id"], "") in sources
