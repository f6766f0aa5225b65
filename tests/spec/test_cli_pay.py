"""Amounts as people type them, and where a transcript may stand."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from services.cli import app
from services.cli_output import Failure
from services.cli_pay import micro, usdc


@pytest.mark.parametrize(
    ("text", "wanted"), [("1", 1_000_000), ("0.25", 250_000), ("0.000001", 1), ("1e1", 10_000_000)]
)
def test_usdc_has_six_decimals(text: str, wanted: int) -> None:
    assert micro(text) == wanted
    assert micro(usdc(wanted)) == wanted


@pytest.mark.parametrize("text", ["", "0", "-1", "0.0000001", "much", "NaN", "Infinity"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(Failure):
        micro(text)


@pytest.mark.parametrize("place", [".", "nowhere/answer.json"])
def test_a_transcript_s_place_is_looked_at_before_anything_is_asked(tmp_path: Path, place: str) -> None:
    said = ["chat", "Hello", "--session-key", "cps_x", "--gateway", "http://127.0.0.1:9", "--transcript"]
    ran = CliRunner().invoke(app, [*said, str(tmp_path / place)])
    assert isinstance(ran.exception, Failure)
    assert ran.exception.code == "transcript_unwritable"
