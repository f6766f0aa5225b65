"""Amounts as people type them."""

import pytest

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
