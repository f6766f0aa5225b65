"""docs/security-contracts.md names every function of every contract, and none that is not there."""

import json
import re

import pytest

from services.stack.node import ROOT

PAGE = (ROOT / "docs" / "security-contracts.md").read_text()
CONTRACTS = sorted(path.stem for path in (ROOT / "contracts" / "src").glob("*.sol"))


def test_every_contract_has_its_section() -> None:
    assert sorted(re.findall(r"^## (\w+)$", PAGE, re.MULTILINE)) == CONTRACTS


@pytest.mark.parametrize("contract", CONTRACTS)
def test_each_function_stands_there_with_who_may_call_it_and_what_it_can_lose(contract: str) -> None:
    abi = json.loads((ROOT / f"contracts/out/{contract}.sol/{contract}.json").read_text())["abi"]
    changing = {f["name"] for f in abi if f["type"] == "function" and f["stateMutability"] == "nonpayable"}
    reading = {f["name"] for f in abi if f["type"] == "function"} - changing
    section = PAGE.partition(f"\n## {contract}\n")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `")]
    assert all(len(row) == 3 and all(cell.strip() for cell in row) for row in rows)
    named = [(name, row[2].strip()) for row in rows for name in re.findall(r"`(\w+)`", row[0])]
    assert sorted(name for name, _ in named) == sorted(changing | reading)
    assert {name for name, loss in named if loss.startswith("Views.")} == reading
