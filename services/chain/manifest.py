"""What stands where: addresses with the salts and hashes that lead to them. Same facts, same file.

Knows no chain; everything that works with contracts takes their addresses from here.
"""

from collections.abc import Mapping
from pathlib import Path

import msgspec


class NotDeployed(Exception):
    """not_deployed: there is no manifest for this chain, so nobody knows where its contracts stand."""

    code = "not_deployed"
    remedy = "computepool chain deploy --rpc URL"


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One contract. Hashes and salts as 0x-hex; `code_hash` is keccak of the code that stands there.

    `logic`: for a proxy, the name of the contract whose code it runs.
    """

    address: str
    artifact: str
    made_by: str
    code_hash: str
    origin: str = ""
    salt: str = ""
    init_code_hash: str = ""
    logic: str = ""


class Manifest(msgspec.Struct, frozen=True):
    """`from_block`: no event of these contracts is older. `plan`: SHA-256 over every step, in order."""

    format: int
    chain_id: int
    owner: str
    from_block: int
    plan: str
    superfluid_build: str
    contracts: Mapping[str, Entry]

    def at(self, name: str) -> str:
        """The address of a contract by its name. Raises NotDeployed when the manifest does not list it."""
        if name not in self.contracts:
            raise NotDeployed(f"the manifest of chain {self.chain_id} lists no {name}")
        return self.contracts[name].address

    def as_json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"


def read(path: Path) -> Manifest:
    """Raises NotDeployed."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError as missing:
        raise NotDeployed(f"no manifest at {path}") from missing


def write(path: Path, manifest: Manifest) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".new")
    beside.write_bytes(manifest.as_json())
    beside.replace(path)
