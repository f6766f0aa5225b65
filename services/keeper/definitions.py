"""The workflow files as they are, and what they say about themselves. Knows no backend."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from events.workflow import WorkflowName

WORKFLOWS = Path(__file__).parent / "workflows"


@cache
def definition_of(name: WorkflowName) -> Mapping[str, Any]:
    """A KeeperHub export, v1."""
    found: dict[str, Any] = json.loads((WORKFLOWS / f"{name}.json").read_text())
    return found


@cache
def callback_events(name: WorkflowName) -> tuple[str, ...]:
    """What its callbacks may tell, each name once."""
    bodies = [node["data"]["config"].get("httpBody") for node in definition_of(name)["nodes"]]
    return tuple(dict.fromkeys(str(json.loads(body)["event"]) for body in bodies if body))
