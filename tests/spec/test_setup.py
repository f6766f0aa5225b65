"""The set-up: what makes it work again and what does not, its errors, two at once; `long`: a fresh clone."""

import asyncio
import base64
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from services.stack.chain_tools import ToolchainFailed, check_integrity, wanted_name
from services.stack.setup import (
    GO_LOCK,
    LOCKS,
    Progress,
    Setup,
    SetupFailed,
    contract_tools_digest,
    contracts_digest,
    go_version_needed,
    machine_node,
    node_digest,
    python_digest,
)

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 60.0
CONTRACT_TOOLS = ("bin/forge", "bin/anvil", "bin/solc")
needs_machine_tools = pytest.mark.skipif(
    shutil.which("go") is None or machine_node() is None,
    reason="the stamp of this tree was made with the machine's go and node",
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A project as set up: lock files, a mesh node's sources, what was made of them, and the stamp."""
    for name in (*LOCKS, GO_LOCK, "pyproject.toml"):
        (tmp_path / name).write_text(f"content of {name}")
    node = tmp_path / "services" / "axl_node"
    node.mkdir(parents=True)
    (node / "go.mod").write_text("module x\n\ngo 1.21\n")
    (node / "main.go").write_text("package main\n")
    (tmp_path / "services" / "stack").mkdir()
    shutil.copy(ROOT / "services/stack/setup.py", tmp_path / "services/stack/setup.py")
    (tmp_path / "contracts/out").mkdir(parents=True)
    (tmp_path / "contracts/src").mkdir()
    (tmp_path / "contracts/package-lock.json").write_text("{}")
    made_files = (".venv/bin/python", ".venv/bin/computepool", "bin/axl_node", *CONTRACT_TOOLS)
    for made in made_files:
        (tmp_path / made).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / made).touch()
    setup = Setup(tmp_path, Progress())
    setup.write_stamp(
        python=python_digest(tmp_path, setup.tool_locks),
        axl_node=node_digest(tmp_path, setup.go[1] if setup.go else ""),
        contract_tools=(tools := contract_tools_digest(tmp_path, setup.js_version())),
        contracts=contracts_digest(tmp_path, tools),
    )
    return tmp_path


def wanted(root: Path) -> tuple[bool, bool, bool, bool]:
    """Environment, mesh node, the contracts' tools, the contracts."""
    setup = Setup(root, Progress())
    return (
        setup.python_wanted(),
        setup.node_wanted(),
        setup.contract_tools_wanted(),
        setup.contracts_wanted(),
    )


@needs_machine_tools
@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ("requirements.lock", (True, False, False, False)),
        ("requirements-bootstrap.lock", (True, False, False, False)),
        ("pyproject.toml", (True, False, False, False)),
        ("services/axl_node/main.go", (False, True, False, False)),
        ("services/axl_node/go.sum", (False, True, False, False)),
        ("services/axl_node/main_test.go", (False, False, False, False)),
        ("contracts/package-lock.json", (False, False, True, True)),
        ("contracts/superfluid.lock.json", (False, False, True, True)),
        ("contracts/src/New.sol", (False, False, False, True)),
        ("contracts/foundry.toml", (False, False, False, True)),
        ("README.md", (False, False, False, False)),
    ],
)
def test_only_what_a_change_concerns_is_made_again(
    tree: Path, changed: str, expected: tuple[bool, bool, bool, bool]
) -> None:
    assert wanted(tree) == (False, False, False, False)
    (tree / changed).write_text("changed")
    assert wanted(tree) == expected


@pytest.mark.parametrize(
    ("lost", "expected"),
    [
        (".venv/bin/computepool", (True, False, False, False)),
        (".venv/bin/python", (True, False, False, False)),
        ("bin/axl_node", (False, True, False, False)),
        ("bin/anvil", (False, False, True, False)),
        ("contracts/out", (False, False, False, True)),
    ],
)
def test_what_was_lost_is_made_again(tree: Path, lost: str, expected: tuple[bool, bool, bool, bool]) -> None:
    before = wanted(tree)
    (tree / lost).rename(tree / "elsewhere")
    assert wanted(tree) == tuple(old or new for old, new in zip(before, expected, strict=True))
    assert wanted(tree) != before or before == expected


def test_a_project_that_moved_gets_a_new_environment(tree: Path) -> None:
    moved = tree.with_name(tree.name + "-moved")
    tree.rename(moved)
    assert wanted(moved)[0]


def test_a_damaged_stamp_counts_as_none(tree: Path) -> None:
    Setup(tree, Progress()).stamp_path.write_text('{"python": ')
    assert wanted(tree) == (True, True, True, True)


def test_the_go_version_is_read_from_the_module(tree: Path) -> None:
    assert go_version_needed(tree) == (1, 21)
    assert go_version_needed(ROOT) >= (1, 26)


async def test_a_step_that_fails_shows_its_log_and_the_remedy(tree: Path) -> None:
    setup = Setup(tree, Progress())
    code = "import sys; print('no route to the registry'); sys.exit(7)"
    with pytest.raises(
        SetupFailed, match=r"ended with 7[\s\S]*no route to the registry[\s\S]*remedy: plug it in"
    ):
        await setup.tool("packages", [sys.executable, "-c", code], "plug it in")
    with pytest.raises(SetupFailed, match="no-such-program"):
        await setup.tool("packages", ["/no-such-program"], "install it")


@pytest.mark.parametrize("program", ["setup.py", "chain_tools.py"])
def test_it_imports_nothing_but_the_standard_library(program: str) -> None:
    code = (
        "import runpy, sys; before = set(sys.modules); "
        f"runpy.run_path({str(ROOT / 'services/stack' / program)!r}, run_name='x'); "
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}; "
        "print(sorted(new - set(sys.stdlib_module_names)))"
    )
    found = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


def test_a_package_with_another_hash_than_the_locks_is_refused() -> None:
    good = json.loads((ROOT / "contracts/superfluid.lock.json").read_text())["integrity"]
    check_integrity(b"abc", "sha512-" + base64.b64encode(hashlib.sha512(b"abc").digest()).decode())
    with pytest.raises(ToolchainFailed, match="the lock file wants sha512-"):
        check_integrity(b"abc", good)


def test_of_superfluids_package_only_what_is_listed_is_kept() -> None:
    listed = {"SuperToken"}
    inside = "package/build/hardhat/contracts/superfluid/SuperToken.sol/"
    assert wanted_name(inside + "SuperToken.json", listed) == "SuperToken.json"
    assert wanted_name(inside + "SuperToken.dbg.json", listed) is None
    assert wanted_name("package/build/truffle/SuperToken.json", listed) is None
    assert wanted_name("package/contracts/superfluid/SuperToken.sol", listed) is None
    assert wanted_name("package/build/hardhat/build-info/0a.json", listed) == "build-info.json"


def test_npms_lock_file_has_a_hash_for_every_package_and_no_address() -> None:
    lock = json.loads((ROOT / "contracts/package-lock.json").read_text())["packages"]
    assert all(entry["integrity"].startswith("sha512-") for path, entry in lock.items() if path)
    assert not [path for path, entry in lock.items() if "resolved" in entry]


@needs_machine_tools
async def test_two_at_once_take_turns(tree: Path) -> None:
    (tree / ".computepool").mkdir()
    with (tree / ".computepool" / "setup.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        argv = (sys.executable, "-I", str(tree / "services/stack/setup.py"))
        second = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
        assert second.stdout is not None
        first_line = await asyncio.wait_for(second.stdout.readline(), DEADLINE_S)
        assert b"another set-up runs here" in first_line
        assert second.returncode is None
        fcntl.flock(held, fcntl.LOCK_UN)
        rest = await asyncio.wait_for(second.stdout.read(), DEADLINE_S)
        assert b"nothing to do" in rest
        assert await second.wait() == 0


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_fresh_clone_sets_itself_up_and_a_second_run_is_quick(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    environment = {
        name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "MAKEFLAGS")
    }
    both = [
        subprocess.Popen(["make", "setup"], cwd=clone, env=environment, stdin=subprocess.DEVNULL)
        for _ in "ab"
    ]
    assert [process.wait(850) for process in both] == [0, 0]
    began = time.monotonic()
    again = subprocess.run(
        ["make", "setup"], cwd=clone, env=environment, capture_output=True, text=True, check=True
    )
    assert "nothing to do" in again.stdout
    assert time.monotonic() - began < 5
    shown = subprocess.run(
        [clone / ".venv/bin/computepool", "--help"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "doctor" in shown.stdout
    status = ["git", "status", "--porcelain"]
    left = subprocess.run(status, cwd=clone, capture_output=True, text=True, check=True).stdout
    assert left == "", "set-up leaves nothing that git would see"
