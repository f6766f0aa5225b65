"""The rules of the house that no other tool keeps: sizes, rooms, sleeps, and what may never be committed."""

import ast
import re
import subprocess
import tomllib
from pathlib import Path

from services.stack.node import ROOT

LONGEST_FILE = 400
TABLES = {"tests/models/plots.py"}
"""Data written as Python: a list of plots."""
ROOMS = {
    "services",
    "events",
    "projections",
    "shard_runtime",
    "contracts",
    "migrations",
    "tests",
    "compose",
    "docs",
    ".ci",
}
LARGEST_BYTES = 8 * 1024 * 1024
PURE_SOURCES = (".py", ".go")


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return [Path(name) for name in listed.decode().split("\0") if name and (ROOT / name).is_file()]


def sources(*folders: str) -> list[Path]:
    return [path for path in tracked() if path.suffix == ".py" and path.parts[0] in folders]


def test_no_file_of_code_is_longer_than_can_be_read_at_once() -> None:
    long = {
        str(path): lines
        for path in tracked()
        if path.suffix in PURE_SOURCES
        and (lines := len((ROOT / path).read_text().splitlines())) > LONGEST_FILE
        and str(path) not in TABLES
    }
    assert not long


def test_top_level_folders_are_those_of_the_house() -> None:
    assert {path.parts[0] for path in tracked() if len(path.parts) > 1} <= ROOMS


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        str(path)
        for path in sources("services", "events", "projections", "shard_runtime")
        if not ast.get_docstring(ast.parse((ROOT / path).read_text()))
    ]
    assert not silent


def test_tests_wait_for_conditions_and_never_for_time_alone() -> None:
    """`time.sleep` nowhere; `asyncio.sleep` only inside a loop that asks again, or to yield (0)."""
    found = []
    for path in sources("tests"):
        tree = ast.parse((ROOT / path).read_text())
        looping = {
            id(inner)
            for outer in ast.walk(tree)
            if isinstance(outer, ast.While | ast.AsyncFor | ast.For)
            for inner in ast.walk(outer)
        }
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            name = ast.unparse(call.func)
            yields = [ast.unparse(argument) for argument in call.args] == ["0"]
            if name == "time.sleep" or (name == "asyncio.sleep" and not yields and id(call) not in looping):
                found.append(f"{path}:{call.lineno} {ast.unparse(call)}")
    assert not found


def test_the_auditors_contract_names_every_other_service() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (contract,) = [c for c in contracts if c["source_modules"] == ["services.auditor"]]
    names = {path.parts[1].removesuffix(".py") for path in sources("services")} - {"__init__", "auditor"}
    assert {f"services.{name}" for name in names} <= set(contract["forbidden_modules"])


def test_nothing_committed_names_a_registry_or_a_developers_machine() -> None:
    hosts = [
        "python" + "hosted",
        "registry.npm" + "js",
        "proxy." + "golang.org",
        "sum." + "golang.org",
        "pypi" + ".org",
    ]
    places = [re.escape(f"/{name}/") + r"[.a-zA-Z]" for name in ("root", "work", "home")]
    pattern = re.compile("|".join([*map(re.escape, hosts), *(rf"(?<![\w.}}]){place}" for place in places)]))
    found = []
    for path in tracked():
        raw = (ROOT / path).read_bytes()
        if b"\0" in raw[:8192]:
            continue
        for number, line in enumerate(raw.decode(errors="replace").splitlines(), 1):
            if pattern.search(line):
                found.append(f"{path}:{number} {line.strip()[:100]}")
    assert not found


def test_no_committed_file_is_large() -> None:
    assert not [str(path) for path in tracked() if (ROOT / path).stat().st_size > LARGEST_BYTES]
