"""Whether a coalition's epoch was opened as somebody claims: read from the chain, at one moment, whole.

The claim is an address and a transaction; everything else is read. Knows no log of events and no key.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from eth_utils.address import to_checksum_address

from events.breach import KINDS
from events.chain import ChainRef
from events.coalition import BreachTerms
from services.chain import logs
from services.chain.artifacts import artifact, artifact_path, read_json
from services.chain.coalitions import Seat
from services.chain.contract import Contract
from services.chain.manifest import Manifest
from services.chain.networks import Network
from services.chain.rpc import CallReverted, Receipt, Rpc

PARTS = {
    "usdc": "USDC",
    "usdcx": "USDCx",
    "gdaForwarder": "GDAv1Forwarder",
    "factory": "SessionEscrowFactory",
}
"""A coalition's view, and the contract of the manifest that it must name."""


class OpeningUnproven(Exception):
    """opening_unproven: the chain does not show that this coalition has opened such an epoch."""

    code = "opening_unproven"


class OpeningUnconfirmed(Exception):
    """opening_unconfirmed: the epoch's transaction is not deep enough in the chain yet; ask again."""

    code = "opening_unconfirmed"


@dataclass(frozen=True)
class Opening:
    """`epoch` is the contract's own count."""

    coalition: str
    epoch: int
    gda_pool: str
    at: ChainRef
    breach_terms: BreachTerms | None = None


async def opening_of(
    rpc: Rpc,
    network: Network,
    manifest: Manifest,
    coalition: str,
    transaction: str,
    seats: Sequence[Seat],
    attestors: Sequence[str] = (),
) -> Opening:
    """The current epoch of `coalition`, opened by `transaction` with exactly these `seats`.

    `attestors`: who is said to attest; each is looked up, none can be found without a name.
    Raises OpeningUnproven, OpeningUnconfirmed, ChainAway, ArtifactMissing, NotDeployed.
    """
    if masked(await rpc.code(coalition)) != _wanted_code():
        raise OpeningUnproven(f"the code at {coalition} is not that of a Coalition of this version")
    contract = Contract(artifact("Coalition"), to_checksum_address(coalition))
    opening = await _told(rpc, network, contract, transaction)
    try:
        for view, name in PARTS.items():
            if not _same(await contract.read(rpc, view), manifest.at(name)):
                raise OpeningUnproven(f"its {view} is another contract than this chain's {name}")
        current = (await contract.read(rpc, "epoch"), str(await contract.read(rpc, "gdaPool")))
        seated = await contract.read(rpc, "seatsOf", opening.epoch)
        terms = await _breach_terms(rpc, contract, attestors) if attestors else None
    except CallReverted as reverted:
        raise OpeningUnproven(str(reverted)) from reverted
    if current[0] != opening.epoch or not _same(current[1], opening.gda_pool):
        raise OpeningUnproven(
            f"its epoch {opening.epoch} is over: it is at {current[0]}, paying {current[1]}"
        )
    if sorted(map(_spelled, seated)) != sorted(_spelled(seat.as_tuple()) for seat in seats):
        raise OpeningUnproven("its seats are not the operators, units, nodes and receipt keys of the plan")
    return replace(opening, breach_terms=terms)


async def _breach_terms(rpc: Rpc, contract: Contract, attestors: Sequence[str]) -> BreachTerms:
    known = tuple(sorted({to_checksum_address(address) for address in attestors}))
    for address in known:
        if not await contract.read(rpc, "isAttestor", address):
            raise OpeningUnproven(f"{address} is no attestor of {contract.address}")
    quorum = int(await contract.read(rpc, "quorum"))
    if not len(known) < 2 * quorum <= 2 * len(known):
        raise OpeningUnproven(f"{len(known)} attestors are not all, where a quorum is {quorum}")
    most = [int(await contract.read(rpc, "mostOf", number)) for number in range(len(KINDS))]
    return BreachTerms(
        attestors=known,
        quorum=quorum,
        most_per_kind_micro=(most[0], most[1], most[2], most[3], most[4]),
        least_probes=int(await contract.read(rpc, "leastProbes")),
        longest_probe_window_s=int(await contract.read(rpc, "longestProbeWindow")),
        deterministic=bool(await contract.read(rpc, "deterministic")),
    )


async def _told(rpc: Rpc, network: Network, contract: Contract, transaction: str) -> Opening:
    receipt: Receipt | None = await rpc.receipt(transaction)
    if receipt is None:
        raise OpeningUnconfirmed(f"{transaction} is in no block")
    depth = await rpc.block_number() - receipt.block_number + 1
    canonical = await logs.is_canonical(rpc, receipt.block_number, receipt.block_hash)
    if depth < network.confirmations or not canonical:
        raise OpeningUnconfirmed(f"{transaction} has {depth} of {network.confirmations} confirmations")
    said = [one for one in map(contract.said, receipt.logs) if one is not None and one.name == "EpochOpened"]
    if not receipt.succeeded or not said:
        raise OpeningUnproven(f"{transaction} opened no epoch of {contract.address}")
    last = said[-1]
    block = await rpc.block(receipt.block_number)
    at = ChainRef(
        network.chain_id, block.number, block.hash, block.timestamp, last.log.transaction, last.log.index
    )
    gda_pool = to_checksum_address(last.values["gdaPool"])
    return Opening(contract.address, int(last.values["epoch"]), gda_pool, at)


def masked(code: bytes) -> bytes:
    """Deployed code of a Coalition without its immutables, so that all of them are equal."""
    found = bytearray(code)
    references = read_json(artifact_path("Coalition", "computepool"))["deployedBytecode"]
    for places in references.get("immutableReferences", {}).values():
        for place in places:
            end = place["start"] + place["length"]
            if end <= len(found):
                found[place["start"] : end] = bytes(place["length"])
    return bytes(found)


def _wanted_code() -> bytes:
    deployed = read_json(artifact_path("Coalition", "computepool"))["deployedBytecode"]["object"]
    return masked(bytes.fromhex(deployed.removeprefix("0x")))


def _same(first: object, second: object) -> bool:
    return str(first).lower() == str(second).lower()


def _spelled(seat: Sequence[object]) -> tuple[str, int, bytes, str]:
    operator, units, node, receipt_key = seat
    assert isinstance(units, int)
    assert isinstance(node, bytes)
    return str(operator).lower(), units, node, str(receipt_key).lower()
