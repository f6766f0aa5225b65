"""Entries of a chain's log, decoded by the events' written signatures; knows no connection.

Sources: contracts/src/interfaces for sessions; Superfluid 1.15 for the agreement and its pools; ERC-20.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec
from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError
from eth_utils.crypto import keccak


class Raw(msgspec.Struct, frozen=True):
    """An entry as an RPC or an export gives it. Addresses and hashes are 0x-hex; their case is no matter."""

    address: str
    topics: tuple[bytes, ...]
    data: bytes
    block_number: int
    block_hash: str
    block_unix_s: int
    tx: str
    log_index: int


class Entry(NamedTuple):
    """A decoded entry; addresses in lower case, bytes32 as hex without 0x, numbers as int."""

    raw: Raw
    address: str
    name: str
    values: dict[str, str | int]

    def number(self, field: str) -> int:
        return int(self.values[field])

    def text(self, field: str) -> str:
        return str(self.values[field])

    @property
    def ref(self) -> tuple[str, int, str]:
        """Where it stands: transaction, log index, block."""
        return self.raw.tx.lower(), self.raw.log_index, self.raw.block_hash.lower()


class ChainLogUnreadable(Exception):
    """chain_log_unreadable: an entry does not decode as the event its first topic names; wrong contracts?"""

    code = "chain_log_unreadable"


_SIGNATURES = (
    "SessionDeployed(address indexed session, bytes32 indexed session_id, address indexed coalition)",
    "Opened(bytes32 indexed session_id, address indexed payer, address indexed coalition, uint256 funded, "
    "bytes32 nonce)",
    "RateSet(address indexed gda_pool, uint32 active, int96 rate, uint64 hard_stop)",
    "MinimumPaid(address indexed gda_pool, uint256 amount, uint32 seconds_paid)",
    "StreamLost(address indexed gda_pool)",
    "Closed(uint64 ended, uint256 spent, uint256 refund, uint256 dust)",
    "RefundPaid(address indexed payer, uint256 micro)",
    "RefundHeld(address indexed payer, uint256 micro)",
    "CoalitionProposed(bytes32 indexed salt, address indexed coalition, address indexed proposer)",
    "Bonded(address indexed operator, uint256 amount, uint256 total)",
    "BondWithdrawn(address indexed operator, uint256 amount)",
    "ClaimOpened(uint256 indexed claim_id, address indexed session, address indexed operator, uint8 kind, "
    "uint256 amount, bytes32 evidence_hash, uint64 executable_at)",
    "Disputed(uint256 indexed claim_id, uint256 counter_bond, uint64 rule_by)",
    "Ruled(uint256 indexed claim_id, bool upheld)",
    "ClaimCancelled(uint256 indexed claim_id)",
    "Slashed(uint256 indexed claim_id, address indexed operator, address indexed payer, uint256 to_payer, "
    "uint256 to_treasury)",
    "PaymentHeld(address indexed to, uint256 amount)",
    "Transfer(address indexed source, address indexed target, uint256 value)",
    "AuthorizationUsed(address indexed authorizer, bytes32 indexed nonce)",
    "MemberUnitsUpdated(address indexed token, address indexed member, uint128 old_units, uint128 new_units)",
    "FlowDistributionUpdated(address indexed token, address indexed gda_pool, address indexed distributor, "
    "address operator, int96 old_rate, int96 rate, int96 total_rate, address adjusted, int96 adjustment, "
    "bytes user_data)",
    "InstantDistributionUpdated(address indexed token, address indexed gda_pool, "
    "address indexed distributor, address operator, uint256 asked, uint256 amount, bytes user_data)",
)


class _Kind(NamedTuple):
    name: str
    indexed: tuple[tuple[str, str], ...]
    plain: tuple[tuple[str, str], ...]


def _kind(signature: str) -> tuple[bytes, _Kind]:
    name, inside = signature.rstrip(")").split("(")
    words = [part.split() for part in inside.split(", ")]
    topic = keccak(text=f"{name}({','.join(word[0] for word in words)})")
    indexed = tuple((word[-1], word[0]) for word in words if word[1] == "indexed")
    plain = tuple((word[-1], word[0]) for word in words if word[1] != "indexed")
    return topic, _Kind(name, indexed, plain)


_KINDS = dict(_kind(signature) for signature in _SIGNATURES)
TOPICS = {kind.name: topic for topic, kind in _KINDS.items()}
"""Event name to first topic, for whoever asks a node for the entries."""


def decoded(entries: Iterable[Raw]) -> Iterator[Entry]:
    """Known events in the chain's order, whatever the order given. Raises ChainLogUnreadable."""
    for raw in sorted(entries, key=lambda raw: (raw.block_number, raw.log_index)):
        kind = _KINDS.get(raw.topics[0]) if raw.topics else None
        if kind is None or len(raw.topics) != 1 + len(kind.indexed):
            continue
        try:
            values = decode([type_ for _, type_ in kind.plain], raw.data)
            topics = [
                decode([type_], topic)[0]
                for (_, type_), topic in zip(kind.indexed, raw.topics[1:], strict=True)
            ]
        except DecodingError as broken:
            raise ChainLogUnreadable(f"{kind.name} in {raw.tx}: {broken}") from broken
        names = [name for name, _ in (*kind.indexed, *kind.plain)]
        shown = {name: _shown(value) for name, value in zip(names, (*topics, *values), strict=True)}
        yield Entry(raw, raw.address.lower(), kind.name, shown)


def _shown(value: object) -> str | int:
    match value:
        case bytes():
            return value.hex()
        case int():
            return int(value)
        case _:
            return str(value).lower()
