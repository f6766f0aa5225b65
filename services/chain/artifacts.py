"""Compiled contracts: their ABI, their init code with libraries linked and arguments appended.

Two sources: our own build of `contracts/`, and Superfluid's artifacts as its npm package ships them. Both are
made by `make setup`; nothing of either is committed. Knows no chain.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from services.chain import abi
from services.stack.node import ROOT

Origin = Literal["computepool", "superfluid"]
CONTRACTS = ROOT / "contracts"
PLACES: Mapping[Origin, Path] = {
    "computepool": CONTRACTS / "out",
    "superfluid": CONTRACTS / "vendor" / "superfluid",
}
BUILD_INFO = "build-info.json"
"""Beside Superfluid's artifacts: what its compiler was given, to be compiled again by `chain verify`."""


class ArtifactMissing(Exception):
    """artifact_missing: a compiled contract is not there; `make setup` compiles and unpacks them."""

    code = "artifact_missing"
    remedy = "make setup"


@dataclass(frozen=True)
class Artifact:
    """`links`: library name -> byte offsets in `bytecode` at which its 20-byte address goes."""

    name: str
    origin: Origin
    abi: tuple[Mapping[str, Any], ...]
    bytecode: bytes
    links: Mapping[str, tuple[int, ...]]

    def init_code(self, *arguments: object, libraries: Mapping[str, str] | None = None) -> bytes:
        """What a creating transaction carries. Raises KeyError when a library's address is not given."""
        code = bytearray(self.bytecode)
        for library, offsets in self.links.items():
            address = bytes.fromhex((libraries or {})[library].removeprefix("0x"))
            for offset in offsets:
                code[offset : offset + 20] = address
        return bytes(code) + abi.encode(self.constructor_types(), *arguments)

    def constructor_types(self) -> tuple[str, ...]:
        for entry in self.abi:
            if entry["type"] == "constructor":
                return tuple(written_type(item) for item in entry["inputs"])
        return ()


@cache
def artifact(name: str, origin: Origin = "computepool") -> Artifact:
    """One contract by its name. Raises ArtifactMissing."""
    return _read(name, origin, read_json(artifact_path(name, origin)))


def artifact_path(name: str, origin: Origin) -> Path:
    """forge writes a folder per source file, Superfluid's artifacts lie side by side."""
    folder = PLACES[origin] / f"{name}.sol" if origin == "computepool" else PLACES[origin]
    return folder / f"{name}.json"


def read_json(path: Path) -> Any:
    """Raises ArtifactMissing."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as missing:
        raise ArtifactMissing(f"{path} is not there") from missing


def _read(name: str, origin: Origin, found: Mapping[str, Any]) -> Artifact:
    """Hardhat's artifact has `bytecode` as text, forge's as an object; both name link places alike."""
    code = found["bytecode"]
    references = found.get("linkReferences", {})
    if isinstance(code, dict):
        references, code = code.get("linkReferences", {}), code["object"]
    digits = code.removeprefix("0x")
    links: dict[str, tuple[int, ...]] = {}
    for of_file in references.values():
        for library, places in of_file.items():
            links[library] = tuple(place["start"] for place in places)
            for start in links[library]:
                digits = digits[: 2 * start] + "00" * 20 + digits[2 * start + 40 :]
    return Artifact(name, origin, tuple(found["abi"]), bytes.fromhex(digits), links)


def written_type(item: Mapping[str, Any]) -> str:
    """`tuple` and `tuple[]` of the JSON ABI as a written type."""
    kind = str(item["type"])
    if not kind.startswith("tuple"):
        return kind
    inside = ",".join(written_type(part) for part in item["components"])
    return f"({inside}){kind.removeprefix('tuple')}"
