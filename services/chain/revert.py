"""Names the error that a contract reverted with, by every compiled contract's ABI. Knows no chain."""

import json
from functools import cache
from pathlib import Path

from eth_abi.exceptions import DecodingError

from services.chain import abi
from services.chain.artifacts import PLACES, written_type

ERROR, PANIC = abi.selector("Error(string)"), abi.selector("Panic(uint256)")


def named(data: bytes) -> str:
    """`OnlyController()`, `Error("too late")`, or the bare selector of an error nobody here declares."""
    if not data:
        return "a revert without a reason"
    try:
        if data[:4] == ERROR:
            return f'Error("{abi.decode(("string",), data[4:])[0]}")'
        if data[:4] == PANIC:
            return f"Panic({abi.decode(('uint256',), data[4:])[0]:#x})"
        known = _declared().get(data[:4])
        if known is None:
            return f"0x{data[:4].hex()}"
        values = abi.decode(abi.argument_types(known), data[4:]) if not known.endswith("()") else ()
        return f"{known[: known.index('(')]}({', '.join(map(str, values))})"
    except DecodingError:
        return f"0x{data.hex()}"


@cache
def _declared() -> dict[bytes, str]:
    found = {}
    for place in PLACES.values():
        for path in sorted(place.rglob("*.json")):
            if "build-info" in (path.stem, path.parent.name):
                continue
            for signature in _errors_of(path):
                found[abi.selector(signature)] = signature
    return found


def _errors_of(path: Path) -> list[str]:
    declared = json.loads(path.read_bytes()).get("abi")
    if not isinstance(declared, list):
        return []
    return [
        f"{entry['name']}({','.join(written_type(item) for item in entry['inputs'])})"
        for entry in declared
        if entry["type"] == "error"
    ]
