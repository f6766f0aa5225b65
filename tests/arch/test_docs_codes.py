"""Codes that no class carries and metrics stand in `docs/` too; no page names a dead command."""

import ast
import re
from pathlib import Path

from services.cli import app
from services.gateway.metrics import Metrics
from services.stack.node import ROOT
from tests.arch.test_docs import PAGES, absent, commands
from tests.arch.test_house import sources

SAYS_A_CODE = {
    "CommandImpossible", "Failure", "FrameRejected", "RequestInvalid", "_cancel", "_drop", "_end_requests_on",
    "_failed", "_find", "end_early",
}  # fmt: skip
"""Functions and errors that take a code as an argument."""
CODE = re.compile(r"[a-z]+(_[a-z]+)*")
NOT_BUILT: set[str] = set()
"""Commands that a remedy names and nobody has written yet. Empty this with the command or the remedy."""


def spoken(source: str) -> set[str]:
    """Codes that are given as a literal: to one of the above, as `error_code`, or to a counter of frames."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        given: list[ast.expr] = []
        if isinstance(node, ast.Call):
            given += [word.value for word in node.keywords if word.arg in ("code", "error_code")]
            if ast.unparse(node.func).split(".")[-1] in SAYS_A_CODE:
                given += node.args
        elif isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("count"):
            given.append(node.slice)
        for value in (outcome for expression in given for outcome in outcomes(expression)):
            if CODE.fullmatch(value):
                found.add(value)
    return found


def outcomes(expression: ast.expr) -> list[str]:
    """The texts that an expression may be: one, or either side of an `if`."""
    match expression:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.IfExp(body=one, orelse=other):
            return outcomes(one) + outcomes(other)
    return []


def go_sources() -> str:
    files = sorted((ROOT / "services" / "axl_node").glob("*.go"))
    return "\n".join(path.read_text() for path in files if not path.name.endswith("_test.go"))


def test_codes_are_seen_however_they_are_said() -> None:
    said = """
raise FrameRejected("bad_parts", f"{n} parts")
self._drop("old_epoch" if old else "unknown_epoch")
self.count["acks" if kind == "ack" else "nacks"] += 1
Answer(error_code="malformed_control", detail="a sentence is no code")
"""
    assert spoken(said) >= {"bad_parts", "old_epoch", "unknown_epoch", "acks", "nacks", "malformed_control"}
    assert spoken(said).isdisjoint({"a sentence is no code", "ack"})


def test_every_code_of_workers_requests_and_findings_is_explained() -> None:
    found: set[str] = set()
    for path in sources("services", "shard_runtime", "events"):
        found |= spoken((ROOT / path).read_text())
    assert len(found) > 50
    assert not absent(found)


def test_every_code_of_the_mesh_node_is_explained() -> None:
    source = go_sources()
    refusals = set(re.findall(r'problem\{http\.\w+, "(\w+)"', source))
    failures = set(re.findall(r'(?:Errorf|errors\.New)\("([a-z]+(?:_[a-z]+)+): ', source))
    assert len(refusals) > 8
    assert len(failures) > 10
    assert not absent(refusals | failures)


def test_every_metric_is_explained() -> None:
    ours = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in Metrics().registry.collect()
    }
    mesh = set(re.findall(r"\baxl_[a-z_]+(?=[\"`{])", go_sources())) - {"axl_node"}
    assert len(ours) > 8
    assert len(mesh) > 20
    assert not absent(ours | mesh)


def test_no_page_names_a_command_that_does_not_exist() -> None:
    real = set(commands(app))
    groups = {name.rsplit(" ", 1)[0] for name in real if name.count(" ") == 2}
    dead = {
        said
        for path in PAGES
        for said in re.findall(r"(?<![\w./-])computepool [a-z]+(?: [a-z]+(?:-[a-z]+)*)?", fenced(ROOT / path))
        if said not in real | groups and said.rsplit(" ", 1)[0] not in real
    }
    assert dead == NOT_BUILT


def fenced(page: Path) -> str:
    """What stands as code: spans and blocks. Remedies of generated tables count as well."""
    text = page.read_text()
    code = re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL)
    return "\n".join([*code, *re.findall(r": (computepool [a-z]+(?: [a-z]+)?)\.", text)])
