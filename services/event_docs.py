"""Writes docs/events.md from the event classes: every type, its fields, every refusal; a test keeps it fresh.

Knows nothing of what the reader does with it. Run: python -m services.event_docs [--check]
"""

import inspect
import sys
from pathlib import Path
from typing import Any

from events.envelope import EVENT_CLASSES, UPCASTERS, json_schema, rejections

TARGET = Path("docs/events.md")


def render() -> str:
    """The whole page, Markdown."""
    schema = json_schema()["$defs"]
    by_tag = {definition["properties"]["type"]["enum"][0]: definition for definition in _tagged(schema)}
    lines = [
        "# Events",
        "",
        "Made by `python -m services.event_docs`; do not edit.",
        "",
        "One message of `CP_EVENTS` is a commit: 1 to 256 events of one aggregate, a CloudEvents JSON",
        "batch under `cp.events.<kind>.<id>`. A released type never changes; a change is a new version",
        "with an upcaster.",
        "",
    ]
    for name in sorted(EVENT_CLASSES):
        lines += [f"## `{name}`", ""]
        about = inspect.getdoc(EVENT_CLASSES[name])
        if about and EVENT_CLASSES[name].__doc__:
            lines += [about, ""]
        lines += ["| field | type | required |", "| --- | --- | --- |"]
        required = by_tag[name].get("required", [])
        for field, described in by_tag[name]["properties"].items():
            if field != "type":
                lines.append(f"| `{field}` | {_type(described)} | {'yes' if field in required else 'no'} |")
        lines.append("")
    lines += ["# Old versions", ""]
    lines += [f"- `{name}` is read as its next version" for name in sorted(UPCASTERS)] or ["None yet."]
    lines += ["", "# Refusals", "", "| code | meaning | remedy |", "| --- | --- | --- |"]
    for code, refusal in sorted(rejections().items()):
        meaning = " ".join((inspect.getdoc(refusal) or "").split())
        lines.append(f"| `{code}` | {meaning} | {refusal.remedy} |")
    return "\n".join(lines) + "\n"


def _tagged(schema: dict[str, Any]) -> list[dict[str, Any]]:
    return [item for item in schema.values() if "enum" in item.get("properties", {}).get("type", {})]


def _type(described: dict[str, Any]) -> str:
    if "anyOf" in described:
        return " or ".join(_type(choice) for choice in described["anyOf"])
    if "$ref" in described:
        return "`" + str(described["$ref"]).rsplit("/", 1)[1] + "`"
    if "enum" in described:
        return " or ".join(f"`{value}`" for value in described["enum"])
    if described.get("type") == "array":
        return "list of " + _type(described["items"])
    return str(described.get("description", described.get("type", "any")))


def main() -> int:
    """Write the page; with --check, say by the exit code whether it is fresh."""
    if "--check" in sys.argv[1:]:
        return 0 if TARGET.exists() and TARGET.read_text() == render() else 1
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(render())
    return 0


if __name__ == "__main__":
    sys.exit(main())
