"""The set-up: what makes it work again and what does not, its errors, two at once; `long`: a fresh clone."""

import asyncio
import fcntl
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from services.stack.setup import (
    GO_LOCK,
    LOCKS,
    Progress,
    Setup,
    SetupFailed,
    go_version_needed,
    node_digest,
    python_digest,
)

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 60.0


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
    for made in (".venv/bin/python", ".venv/bin/computepool", "bin/axl_node"):
        (tmp_path / made).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / made).touch()
    setup = Setup(tmp_path, Progress())
    setup.write_stamp(
        python=python_digest(tmp_path, setup.go is None),
        axl_node=node_digest(tmp_path, setup.go[1] if setup.go else ""),
    )
    return tmp_path


def wanted(root: Path) -> tuple[bool, bool]:
    setup = Setup(root, Progress())
    return setup.python_wanted(), setup.node_wanted()


@pytest.mark.skipif(
    shutil.which("go") is None, reason="the stamp of this tree was made with the machine's go"
)
@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ("requirements.lock", (True, False)),
        ("requirements-bootstrap.lock", (True, False)),
        ("pyproject.toml", (True, False)),
        ("services/axl_node/main.go", (False, True)),
        ("services/axl_node/go.sum", (False, True)),
        ("services/axl_node/main_test.go", (False, False)),
        ("README.md", (False, False)),
    ],
)
def test_only_what_a_change_concerns_is_made_again(
    tree: Path, changed: str, expected: tuple[bool, bool]
) -> None:
    assert wanted(tree) == (False, False)
    (tree / changed).write_text("changed")
    assert wanted(tree) == expected


@pytest.mark.parametrize(
    ("lost", "expected"),
    [
        (".venv/bin/computepool", (True, False)),
        (".venv/bin/python", (True, False)),
        ("bin/axl_node", (False, True)),
    ],
)
def test_what_was_lost_is_made_again(tree: Path, lost: str, expected: tuple[bool, bool]) -> None:
    before = wanted(tree)
    (tree / lost).unlink()
    assert wanted(tree) == (before[0] or expected[0], before[1] or expected[1])
    assert wanted(tree) != before or before == expected


def test_a_project_that_moved_gets_a_new_environment(tree: Path) -> None:
    moved = tree.with_name(tree.name + "-moved")
    tree.rename(moved)
    assert wanted(moved)[0]


def test_a_damaged_stamp_counts_as_none(tree: Path) -> None:
    Setup(tree, Progress()).stamp_path.write_text('{"python": ')
    assert wanted(tree) == (True, True)


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


def test_it_imports_nothing_but_the_standard_library() -> None:
    code = (
        "import runpy, sys; before = set(sys.modules); "
        f"runpy.run_path({str(ROOT / 'services/stack/setup.py')!r}, run_name='x'); "
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}; "
        "print(sorted(new - set(sys.stdlib_module_names)))"
    )
    found = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


@pytest.mark.skipif(
    shutil.which("go") is None, reason="the stamp of this tree was made with the machine's go"
)
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
