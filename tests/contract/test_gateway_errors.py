"""Every code that can reach a client has a row, a remedy and a line in docs/errors.md; needs no server."""

from pathlib import Path

import services.orchestrator  # noqa: F401  (its refusals count too)
from events.envelope import rejections
from services.gateway import error_table, problems

DOCS = Path(__file__).parents[2] / "docs"


def test_every_code_has_a_row_and_the_table_in_the_docs_is_the_programs() -> None:
    assert set(problems.problems()) <= set(problems.TABLE)
    assert set(rejections()) <= set(problems.TABLE)
    for code, refusal in problems.problems().items():
        assert refusal.remedy.endswith((".", "?")), code
        assert refusal.__doc__, code
    assert (DOCS / "errors.md").read_text() == error_table.table()
