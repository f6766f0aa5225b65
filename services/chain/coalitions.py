"""One Coalition contract per pool, at an address that is known before it stands. Knows no operator's consent.

It is made through the CoalitionFactory by whoever pays the gas; its powers are in its terms alone.
"""

from dataclasses import dataclass

from services.chain.addresses import create2, salt_of
from services.chain.artifacts import artifact
from services.chain.contract import Contract
from services.chain.manifest import Manifest


@dataclass(frozen=True)
class CoalitionTerms:
    """What operators consent to. Amounts are micro-USDC, times seconds; as ICoalition.sol's CoalitionConfig.

    `most_per_kind_micro`: largest slash for each kind of breach, in the order of `ICoalition.Kind`.
    """

    steward: str
    treasury: str
    session_limit_micro: int
    longest_session_s: int
    least_bond_micro: int
    counter_bond_micro: int
    most_per_kind_micro: tuple[int, int, int, int, int]
    dispute_window_s: int
    ruling_window_s: int
    unbond_delay_s: int
    least_probes: int
    longest_probe_window_s: int
    deterministic: bool
    attestors: tuple[str, ...]
    quorum: int
    arbiters: tuple[str, ...]
    arbiter_quorum: int


@dataclass(frozen=True)
class Seat:
    """One node's place in an epoch: `operator` is paid by `units` of 10 000 and stands with its bond."""

    operator: str
    units: int
    node_id: str
    receipt_key: str

    @property
    def node(self) -> str:
        """The node's id as the contract's bytes32, 0x and hex: its 26 letters, then zeros."""
        return "0x" + self.node_id.encode().ljust(32, b"\0").hex()

    def as_tuple(self) -> tuple[str, int, bytes, str]:
        """As ICoalition.sol's Seat."""
        return self.operator, self.units, bytes.fromhex(self.node[2:]), self.receipt_key


@dataclass(frozen=True)
class Placement:
    """Stands at `address` once `factory` was told to propose it; repeating that does no harm."""

    address: str
    factory: Contract
    salt: bytes
    init_code: bytes

    @property
    def data(self) -> bytes:
        return self.factory.calldata("propose", self.salt, self.init_code)


def coalition_of(manifest: Manifest, pool_id: str, terms: CoalitionTerms) -> Placement:
    """The same pool, terms and chain always lead to the same place. Raises ArtifactMissing, NotDeployed."""
    config = (
        terms.steward,
        terms.treasury,
        *(manifest.at(name) for name in ("USDC", "USDCx", "GDAv1Forwarder", "SessionEscrowFactory")),
        terms.session_limit_micro,
        terms.longest_session_s,
        terms.least_bond_micro,
        terms.counter_bond_micro,
        terms.most_per_kind_micro,
        terms.dispute_window_s,
        terms.ruling_window_s,
        terms.unbond_delay_s,
        terms.least_probes,
        terms.longest_probe_window_s,
        terms.deterministic,
        terms.attestors,
        terms.quorum,
        terms.arbiters,
        terms.arbiter_quorum,
    )
    salt, init_code = salt_of(f"coalition/{pool_id}"), artifact("Coalition").init_code(config)
    factory = Contract(artifact("CoalitionFactory"), manifest.at("CoalitionFactory"))
    return Placement(create2(factory.address, salt, init_code), factory, salt, init_code)
