"""Compiles the sources again and compares creation code with the artifacts, byte for byte. Knows no chain.

Superfluid's by solc 0.8.35 from the compiler's input in its package, ours by our solc from `contracts/src` as
it is on disk. What was compiled once from the same input is remembered in `build/chain`.
"""

import asyncio
import hashlib
import json
import re
import subprocess
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.chain.artifacts import BUILD_INFO, CONTRACTS, PLACES, Origin, artifact_path, read_json
from services.stack.node import ROOT, program

COMPILERS: Mapping[Origin, str] = {"superfluid": "solc-0.8.35", "computepool": "solc"}
IMPORT = re.compile(r"""^\s*import\b[^"';]*["']([^"']+)["']\s*;""", re.MULTILINE)
OPEN_ZEPPELIN = "@openzeppelin/"


class CompileFailed(Exception):
    """compile_failed: the compiler refused the sources that the deployed code is said to come from."""

    code = "compile_failed"
    remedy = "make setup"


@dataclass(frozen=True)
class Recompiled:
    """`differing`: contracts whose artifact is not what the sources give."""

    origin: Origin
    compiler: str
    compared: tuple[str, ...]
    differing: tuple[str, ...]


async def recompile(origin: Origin, names: Iterable[str]) -> Recompiled:
    """Raises CompileFailed, ArtifactMissing, ProgramMissing."""
    wanted = {name: read_json(artifact_path(name, origin)) for name in sorted(set(names))}
    if origin == "superfluid":
        standard = read_json(PLACES["superfluid"] / BUILD_INFO)["input"]
        places = {name: str(found["sourceName"]) for name, found in wanted.items()}
    else:
        places = {name: str(_source_of(name).relative_to(CONTRACTS)) for name in wanted}
        standard = {"language": "Solidity", "sources": _sources(places.values()), "settings": _settings()}
    selection = {place: {name: ["evm.bytecode.object"]} for name, place in places.items()}
    standard = {**standard, "settings": {**standard["settings"], "outputSelection": selection}}
    compiler = _compiler(origin)
    version = await _run(compiler, "--version")
    made = await _compiled(compiler, version, standard)
    again = {name: made.get(f"{place}:{name}", "") for name, place in places.items()}
    return Recompiled(origin, _short(version), tuple(wanted), differing(wanted, again))


def differing(artifacts: Mapping[str, Mapping[str, Any]], again: Mapping[str, str]) -> tuple[str, ...]:
    """Names of the artifacts whose creation code is not the compiled one (hex, libraries' places open)."""
    return tuple(name for name, found in artifacts.items() if _creation_code(found) != again[name])


async def _compiled(compiler: Path, version: bytes, standard: Mapping[str, Any]) -> dict[str, str]:
    """`file:contract` -> creation code in hex, from memory or from the compiler."""
    given = json.dumps(standard, sort_keys=True).encode()
    memory = ROOT / "build" / "chain" / f"compiled-{hashlib.sha256(version + given).hexdigest()[:32]}.json"
    if memory.exists():
        return dict(json.loads(memory.read_bytes()))
    answer = json.loads(await _run(compiler, "--standard-json", given=given))
    errors = [item for item in answer.get("errors", []) if item["severity"] == "error"]
    if errors:
        raise CompileFailed(errors[0]["formattedMessage"].strip())
    found = {
        f"{place}:{name}": contract["evm"]["bytecode"]["object"]
        for place, contracts in answer["contracts"].items()
        for name, contract in contracts.items()
    }
    memory.parent.mkdir(parents=True, exist_ok=True)
    beside = memory.with_suffix(".new")
    beside.write_text(json.dumps(found))
    beside.replace(memory)
    return found


async def _run(program_path: Path, *arguments: str, given: bytes = b"") -> bytes:
    child = await asyncio.create_subprocess_exec(
        program_path, *arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    said, complained = await child.communicate(given)
    if child.returncode:
        raise CompileFailed(
            f"{program_path.name} ended with {child.returncode}: {complained[-500:].decode()}"
        )
    return said


def _sources(first: Iterable[str]) -> dict[str, dict[str, str]]:
    """These files and all that they import, under the names by which they import each other."""
    found: dict[str, dict[str, str]] = {}
    waiting = list(first)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        place = CONTRACTS / "node_modules" / name if name.startswith(OPEN_ZEPPELIN) else CONTRACTS / name
        try:
            content = place.read_text()
        except FileNotFoundError as missing:
            raise CompileFailed(f"{place} is not there") from missing
        found[name] = {"content": content}
        for imported in IMPORT.findall(content):
            waiting.append(_resolved(name, imported))
    return found


def _resolved(importer: str, imported: str) -> str:
    if not imported.startswith("."):
        return imported
    parts = importer.split("/")[:-1]
    for part in imported.split("/"):
        if part == "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


def _settings() -> dict[str, Any]:
    """forge's, from the same file that forge reads."""
    profile = tomllib.loads((CONTRACTS / "foundry.toml").read_text())["profile"]["default"]
    return {
        "optimizer": {"enabled": profile["optimizer"], "runs": profile["optimizer_runs"]},
        "evmVersion": profile["evm_version"],
        "viaIR": profile.get("via_ir", False),
        "metadata": {"bytecodeHash": profile["bytecode_hash"], "appendCBOR": profile["cbor_metadata"]},
    }


def _source_of(name: str) -> Path:
    found = sorted((CONTRACTS / "src").rglob(f"{name}.sol"))
    if len(found) != 1:
        raise CompileFailed(f"contracts/src has {len(found)} files {name}.sol")
    return found[0]


def _creation_code(found: Mapping[str, Any]) -> str:
    """As compilers write it, with the places of libraries still open."""
    code = found["bytecode"]
    return str(code["object"] if isinstance(code, dict) else code).removeprefix("0x")


def _compiler(origin: Origin) -> Path:
    built = ROOT / "bin" / COMPILERS[origin]
    return built if built.exists() else program(COMPILERS[origin])


def _short(version: bytes) -> str:
    found = re.search(rb"\d+\.\d+\.\d+\+commit\.[0-9a-f]+", version)
    return found.group().decode() if found else version.decode().strip()
