"""The command line: its page, speed of start, errors and exit codes; and the operator's page of settings."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from services.cli_docs import page
from services.settings import Settings
from services.stack.failure import causes
from services.stack.stack import variable

ROOT = Path(__file__).resolve().parents[2]


def computepool(state_dir: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        name: v for name, v in os.environ.items() if not name.startswith(("COMPUTEPOOL_", "DATABASE_"))
    }
    environment["COMPUTEPOOL_STATE_DIR"] = str(state_dir)
    argv = [sys.executable, "-m", "services.cli", *arguments]
    return subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_the_page_of_commands_is_up_to_date() -> None:
    assert (ROOT / "docs/cli.md").read_text() == page(), "python -m services.cli_docs > docs/cli.md"


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, services.cli\n"
        "heavy = {'torch', 'transformers', 'sqlalchemy', 'fastapi', 'nats', 'httpx', 'pydantic'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_every_setting_stands_on_the_operators_page() -> None:
    text = (ROOT / "docs/operate.md").read_text()
    missing = [
        name for name, field in Settings.model_fields.items() if f"`{variable(name, field)}`" not in text
    ]
    assert missing == []


def test_every_error_of_the_stack_stands_on_the_operators_page() -> None:
    text = (ROOT / "docs/operate.md").read_text()
    sources = [*(ROOT / "services/stack").glob("*.py"), *ROOT.glob("services/cli*.py")]
    codes = {
        code
        for source in sources
        for code in re.findall(r'(?:code = |Failure\(\s*)"([a-z_]+)"', source.read_text())
    }
    assert {"port_busy", "log_not_found"} <= codes
    assert sorted(code for code in codes if f"`{code}`" not in text) == []


def test_nothing_runs_in_an_empty_directory(tmp_path: Path) -> None:
    listed = computepool(tmp_path, "ps", "--json")
    assert listed.returncode == 0
    assert json.loads(listed.stdout)["phase"] == "stopped"
    assert computepool(tmp_path, "down").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("nodes",), 1, "no_database"),
        (("logs", "gateway"), 1, "log_not_found"),
        (("events", "show", "planet", "x"), 1, "unknown_kind"),
        (("projection", "check"), 1, "no_database"),
        (("worker", "run", "--dir", "nowhere"), 1, "not_joined"),
        (("up", "--nodes", "many"), 2, "Usage"),
        (("fly",), 2, "No such command"),
    ],
)
def test_a_failure_is_named_on_stderr(
    tmp_path: Path, arguments: tuple[str, ...], status: int, said: str
) -> None:
    done = computepool(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_an_error_tells_what_it_came_from() -> None:
    class Away(Exception):
        code = "gateway_away"
        remedy = "computepool up"

    try:
        try:
            raise OSError("connection refused")
        except OSError as reason:
            raise Away("no answer") from reason
    except Away as failure:
        told = causes(ExceptionGroup("parts", [failure]))
    assert told == ("gateway_away: no answer\nremedy: computepool up\nbecause: OSError: connection refused")


def test_help_is_immediate(tmp_path: Path) -> None:
    """The best of five, so that a busy machine does not decide; the goal is 0.3 s, more on slow disks."""
    best = 9.0
    for _ in range(5):
        began = time.monotonic()
        assert computepool(tmp_path, "--help").returncode == 0
        best = min(best, time.monotonic() - began)
    assert best < 1.0
