"""docs/axl-node.md names every setting, error code, metric and extension that the sources have."""

import re

import pytest

from tests.mesh_nodes import ROOT, SOURCES

PATTERNS = {
    "setting": r'`json:"(\w+)"`',
    "code": r'problem\{http\.Status\w+, "(\w+)"',
    "start-up error": r'"((?:config|key|listen|api|overlay)_[a-z_]+): ',
    "metric": r'"?(axl_[a-z_]+)(?:\{|",)',
}


@pytest.mark.parametrize("kind", PATTERNS)
def test_everything_with_a_name_is_documented(kind: str) -> None:
    files = [path for path in SOURCES.glob("*.go") if not path.name.endswith("_test.go")]
    if kind == "setting":
        files = [SOURCES / "config.go"]
    if kind == "metric":
        files = [SOURCES / "metrics.go"]
    names = {name for path in files for name in re.findall(PATTERNS[kind], path.read_text())}
    assert len(names) >= 10, f"the pattern for a {kind} finds too little: {names}"
    text = (ROOT / "docs" / "axl-node.md").read_text()
    assert sorted(name for name in names if not re.search(rf"\b{name}\b", text)) == []
