"""Writes `docs/codes.md`: every stable code of an error, from the sources; `python -m services.code_docs`.

Reads the sources as text, so that nothing heavy is imported. Knows no error itself.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("events", "projections", "services", "shard_runtime")


class Code(NamedTuple):
    code: str
    module: str
    meaning: str


def codes() -> Iterator[Code]:
    """Every class with a `code`, in order of code and module."""
    found: set[Code] = set()
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef):
                    found.update(Code(code, module, _meaning(node, code)) for code in _declared(node))
    yield from sorted(found)


def _declared(node: ast.ClassDef) -> Iterator[str]:
    for statement in node.body:
        match statement:
            case (
                ast.Assign(targets=[ast.Name(id="code")], value=ast.Constant(value=str(code)))
                | ast.AnnAssign(target=ast.Name(id="code"), value=ast.Constant(value=str(code)))
            ):
                yield code


def _meaning(node: ast.ClassDef, code: str) -> str:
    first = (ast.get_docstring(node) or "").split("\n\n")[0]
    return " ".join(first.split()).removeprefix(f"{code}: ").replace("|", "\\|")


def page() -> str:
    rows = [f"| `{item.code}` | `{item.module}` | {item.meaning} |" for item in codes()]
    return "\n".join(
        [
            "# Error codes",
            "",
            "Made by `python -m services.code_docs`. Every refusal and failure has a stable code; the HTTP",
            "status of those that reach a client is in [errors.md](errors.md). Codes of commands, requests",
            "and frames in the ring: [worker.md](worker.md); of the mesh node: [axl-node.md](axl-node.md).",
            "",
            "| code | where | meaning and remedy |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    print(page(), end="")
