"""A deployment as data: steps that each say what to send and how to see that it is done already.

Every address is known before anything is sent, since all contracts are made by CREATE2 (or by one of them, at
a known nonce). Knows no chain: `deployer` sends, `verification` compares.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from eth_utils.crypto import keccak

from services.chain import abi
from services.chain.addresses import DETERMINISTIC_PROXY, create2, salt_of
from services.chain.artifacts import Artifact, Origin


@dataclass(frozen=True)
class HasCode:
    """Done when a contract stands at `address`."""

    address: str


@dataclass(frozen=True)
class Answers:
    """Done when calling `to` with `data` answers exactly `expected`."""

    to: str
    data: bytes
    expected: bytes


@dataclass(frozen=True)
class Slot:
    """Done when the storage word `slot` of `address` is `expected` (for what no view tells)."""

    address: str
    slot: int
    expected: int


Done = HasCode | Answers | Slot


@dataclass(frozen=True)
class Presigned:
    """A transaction that its makers signed without a chain id, and what its signer must hold first."""

    raw: bytes
    signer: str
    cost_wei: int


@dataclass(frozen=True)
class Step:
    """One transaction from the deployer's account; `presigned` replaces it by somebody's ready-made one."""

    title: str
    to: str
    data: bytes
    done: Done
    presigned: Presigned | None = None


@dataclass(frozen=True)
class Placed:
    """A contract of the manifest. `salt` and `init_code_hash` are None for what another contract makes."""

    name: str
    address: str
    artifact: str
    origin: Origin | None
    made_by: str
    salt: bytes | None = None
    init_code: bytes | None = field(default=None, repr=False)
    libraries: Mapping[str, str] = field(default_factory=dict)
    logic: str | None = None
    """For a proxy: the name of the contract whose code it runs."""


class Plan:
    """Collects steps in order. `owner` may call `genesis`, which makes and sets up everything."""

    def __init__(self, owner: str, genesis: Artifact, superfluid_build: str = "") -> None:
        self.owner = owner
        self.superfluid_build = superfluid_build
        """SHA-256 of the build information that Superfluid's artifacts were compiled from."""
        self.steps: list[Step] = []
        self.placed: dict[str, Placed] = {}
        self.genesis = ""
        self._genesis_artifact = genesis

    def at(self, name: str) -> str:
        return self.placed[name].address

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def begin(self) -> None:
        """Genesis itself, by the proxy that every chain has."""
        self.genesis = self.by_proxy("Genesis", self._genesis_artifact, self.owner)

    def by_proxy(self, name: str, artifact: Artifact, *arguments: object) -> str:
        """For what has no owner, or takes it as an argument: the proxy would be the owner otherwise."""
        return self._create(name, artifact, DETERMINISTIC_PROXY, arguments, {})

    def create(
        self, name: str, artifact: Artifact, *arguments: object, libraries: Mapping[str, str] | None = None
    ) -> str:
        """By Genesis, so that Genesis is `msg.sender` in the constructor and may set it up afterwards."""
        return self._create(name, artifact, self.genesis, arguments, libraries or {})

    def call(self, title: str, to: str, signature: str, *arguments: object, done: Done) -> None:
        """Genesis calls `to`."""
        inner = abi.call(signature, *arguments)
        self.steps.append(Step(title, self.genesis, abi.call("exec(address,bytes)", to, inner), done))

    def made(self, placed: Placed) -> str:
        """Something that the step before made by itself."""
        self.placed[placed.name] = placed
        return placed.address

    def _create(
        self,
        name: str,
        artifact: Artifact,
        maker: str,
        arguments: tuple[object, ...],
        libraries: Mapping[str, str],
    ) -> str:
        init_code = artifact.init_code(*arguments, libraries=libraries)
        salt = salt_of(f"{artifact.origin}/{name}")
        address = create2(maker, salt, init_code)
        if maker == DETERMINISTIC_PROXY:
            data = salt + init_code
        else:
            data = abi.call("deploy(bytes32,bytes)", salt, init_code)
        self.steps.append(Step(f"create {name}", maker, data, HasCode(address)))
        by = "proxy" if maker == DETERMINISTIC_PROXY else "Genesis"
        self.placed[name] = Placed(
            name, address, artifact.name, artifact.origin, by, salt, init_code, libraries
        )
        return address


def digest(plan: Plan) -> str:
    """SHA-256 over every step in order: two plans with one digest leave the same on any chain."""
    total = hashlib.sha256()
    for step in plan.steps:
        raw = step.presigned.raw if step.presigned else b""
        for part in (step.title.encode(), step.to.encode(), step.data, raw, repr(step.done).encode()):
            total.update(len(part).to_bytes(4, "big") + part)
    return total.hexdigest()


def view(
    to: str, signature: str, *arguments: object, answers: tuple[tuple[str, ...], tuple[object, ...]]
) -> Answers:
    """Done when the view answers these values, given as (types, values)."""
    types, values = answers
    return Answers(to, abi.call(signature, *arguments), abi.encode(types, *values))


def is_address(to: str, signature: str, *arguments: object, expected: str) -> Answers:
    return view(to, signature, *arguments, answers=(("address",), (expected,)))


def is_true(to: str, signature: str, *arguments: object) -> Answers:
    return view(to, signature, *arguments, answers=(("bool",), (True,)))


def init_code_hash(placed: Placed) -> bytes | None:
    return keccak(placed.init_code) if placed.init_code is not None else None
