"""Makes the contracts' tools from their lock files: forge, anvil, cast, solc, and Superfluid's artifacts.

Run by the set-up as a program, with the standard library alone. npm only installs (no package's scripts run);
the compiler is solc's JavaScript build; Superfluid's package is fetched, compared with the hash in
`contracts/superfluid.lock.json`, and of it only what the deployer and its check need is kept.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOUNDRY = ("forge", "anvil", "cast")
COMPILERS = {"solc": "solc", "solc-0.8.35": "solc-0.8.35"}
"""Name in bin -> npm name: ours, and the one Superfluid's artifacts were made with."""
SUPERFLUID = "superfluid"
"""The folder under contracts/vendor."""


class ToolchainFailed(Exception):
    """toolchain_failed: a tool of the contracts could not be installed; the message says which and why."""

    code = "toolchain_failed"


def platform_name() -> str:
    """Foundry's name of this machine, such as `linux-amd64`."""
    machine = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
    return f"{platform.system().lower()}-{machine.get(platform.machine().lower(), platform.machine())}"


@dataclass(frozen=True, slots=True)
class Node:
    """`npm`: a program, or the JavaScript file that `node` runs."""

    node: str
    npm: str


def npm(js: Node, *arguments: str, cwd: Path) -> str:
    """stdout of one npm command. Raises ToolchainFailed."""
    found_first = f"{Path(js.node).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    program = [js.node, js.npm] if js.npm.endswith(".js") else [js.npm]
    ran = subprocess.run(
        [*program, *arguments],
        cwd=cwd,
        env=os.environ | {"PATH": found_first},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if ran.returncode:
        raise ToolchainFailed(f"npm {' '.join(arguments)} ended with {ran.returncode}")
    return ran.stdout


def check_integrity(content: bytes, wanted: str) -> None:
    """`wanted` as in npm's lock files: `sha512-` and base64. Raises ToolchainFailed."""
    found = "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode()
    if found != wanted:
        raise ToolchainFailed(f"the package's hash is {found}, the lock file wants {wanted}")


def wanted_name(member: str, contracts: set[str]) -> str | None:
    """The file name under which a member of Superfluid's package is kept; None: it is not needed."""
    path = Path(member)
    if member == "package/dev-scripts/artifacts/ERC1820Registry.json":
        return path.name
    if member.startswith("package/build/hardhat/contracts/") and path.stem in contracts:
        return path.name if path.suffix == ".json" else None
    return "build-info.json" if member.startswith("package/build/hardhat/build-info/") else None


def unpack(tarball: Path, contracts: set[str], into: Path) -> None:
    """Of the build information (52 MB) the compiler's input alone stays. Raises ToolchainFailed."""
    with tarfile.open(tarball) as package:
        for member in package:
            name = wanted_name(member.name, contracts)
            opened = package.extractfile(member) if name else None
            if not name or opened is None:
                continue
            content = opened.read()
            if name == "build-info.json":
                built = json.loads(content)
                content = json.dumps({key: built[key] for key in ("solcLongVersion", "input")}).encode()
            (into / name).write_bytes(content)
    missing = {f"{contract}.json" for contract in contracts} - {path.name for path in into.iterdir()}
    if missing:
        raise ToolchainFailed(f"the package lacks {', '.join(sorted(missing))}")


def superfluid(js: Node, contracts: Path) -> None:
    """contracts/vendor/superfluid: <Contract>.json (hardhat's), build-info.json, ERC1820Registry.json."""
    lock = json.loads((contracts / "superfluid.lock.json").read_text())
    vendor = contracts / "vendor"
    vendor.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=vendor) as scratch:
        spec = f"{lock['package']}@{lock['version']}"
        packed = npm(js, "pack", spec, "--silent", "--pack-destination", scratch, cwd=contracts)
        tarball = Path(scratch) / packed.split()[-1]
        check_integrity(tarball.read_bytes(), lock["integrity"])
        fresh = Path(scratch) / SUPERFLUID
        fresh.mkdir()
        unpack(tarball, set(lock["contracts"]), fresh)
        shutil.rmtree(vendor / SUPERFLUID, ignore_errors=True)
        fresh.rename(vendor / SUPERFLUID)


def executable(path: Path, text: str) -> None:
    beside = path.with_name(f"{path.name}.new.{os.getpid()}")
    beside.write_text(text)
    beside.chmod(0o755)
    beside.replace(path)


def link_programs(node: str, contracts: Path, into: Path) -> None:
    """Foundry's own binaries are linked (its launchers would leave an orphan when killed); `forge` is told
    the compiler, because it takes only an absolute path.

    Raises ToolchainFailed on a platform without binaries.
    """
    into.mkdir(exist_ok=True)
    for name in FOUNDRY:
        binary = contracts / "node_modules" / "@foundry-rs" / f"{name}-{platform_name()}" / "bin" / name
        if not binary.is_file():
            raise ToolchainFailed(f"there is no {name} for {platform_name()} in the lock file")
        if name == "forge":
            said = f"export FOUNDRY_SOLC={shlex.quote(str(into / 'solc'))}"
            executable(into / name, f'#!/bin/sh\n{said}\nexec {shlex.quote(str(binary))} "$@"\n')
            continue
        beside = into / f"{name}.new.{os.getpid()}"
        beside.symlink_to(os.path.relpath(binary, into))
        beside.replace(into / name)
    for name, package in COMPILERS.items():
        program = f"{shlex.quote(node)} {shlex.quote(str(contracts / 'tools' / 'solc.js'))} {package}"
        executable(into / name, f'#!/bin/sh\nexec {program} "$@"\n')


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--node", required=True)
    parser.add_argument("--npm", required=True)
    given = parser.parse_args()
    contracts = ROOT / "contracts"
    try:
        js = Node(given.node, given.npm)
        npm(js, "ci", "--silent", cwd=contracts)
        superfluid(js, contracts)
        link_programs(given.node, contracts, ROOT / "bin")
    except ToolchainFailed as failed:
        print(f"toolchain_failed: {failed}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
