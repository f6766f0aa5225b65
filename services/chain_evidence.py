"""Reads from a node what an auditor of money needs: all sessions' entries, and what operators received.

Everything is read up to one block, so that it belongs together. Knows no rule, and compares nothing.
"""

from collections.abc import Iterable, Sequence

from services.auditor.chain_log import TOPICS, Raw, decoded
from services.auditor.money import ChainEvidence
from services.chain import abi
from services.chain.manifest import Manifest
from services.chain.networks import Network, network_of
from services.chain.rpc import Log, Rpc

FACTORY = "SessionEscrowFactory"
COALITIONS = "CoalitionFactory"
BOND_EVENTS = (
    "Bonded", "BondWithdrawn", "ClaimOpened", "Disputed", "Ruled", "ClaimCancelled", "Slashed", "PaymentHeld",
)  # fmt: skip
ADDRESSES_AT_ONCE = 200
RECEIVED = "getTotalAmountReceivedByMember(address)"


async def evidence_of(rpc: Rpc, manifest: Manifest) -> ChainEvidence:
    """Raises NotDeployed (no sessions on this chain), ChainAway, RpcRefused, ChainUnknown."""
    factory, usdc, gda = manifest.at(FACTORY), manifest.at("USDC"), manifest.at("GDAv1")
    reading = _Reading(rpc, network_of(await rpc.chain_id()), manifest.from_block, await rpc.block_number())
    made = await reading.entries([factory], ["SessionDeployed"])
    sessions = [entry.text("session") for entry in decoded(made)]
    own = await reading.entries(sessions, ["Opened", "RateSet", "MinimumPaid", "StreamLost", "Closed"])
    held = await reading.entries(sessions, ["RefundPaid", "RefundHeld"])
    flows = await reading.entries([gda], ["FlowDistributionUpdated", "InstantDistributionUpdated"])
    pools = sorted({entry.text("gda_pool") for entry in decoded(own) if entry.name == "RateSet"} - {NOBODY})
    ours = [raw for raw in flows if "0x" + raw.topics[2][12:].hex() in pools]
    units = await reading.entries(pools, ["MemberUnitsUpdated"])
    transfers = await reading.entries([usdc], ["Transfer"])
    members = sorted({(entry.address, entry.text("member")) for entry in decoded(units)})
    totals = {}
    for gda_pool, member in members:
        answer = await rpc.call(gda_pool, abi.call(RECEIVED, member), reading.head)
        totals[f"{gda_pool}/{member}"] = str(abi.decode(("uint256",), answer)[0])
    proposers = [manifest.at(COALITIONS)] if COALITIONS in manifest.contracts else []
    proposed = await reading.entries(proposers, ["CoalitionProposed"])
    named = {entry.text("coalition") for entry in decoded((*made, *proposed))} - {NOBODY}
    bonded = await reading.entries(sorted(named), BOND_EVENTS)
    bonds, balances = await _bonds(rpc, usdc, bonded, reading.head)
    entries = (*made, *own, *held, *ours, *units, *transfers, *bonded)
    head_unix_s = await reading.time_of(reading.head)
    return ChainEvidence(factory, usdc, gda, head_unix_s, entries, totals, bonds, balances)


async def _bonds(
    rpc: Rpc, usdc: str, bonded: Iterable[Raw], head: int
) -> tuple[dict[str, int], dict[str, int]]:
    """By the coalitions' own view and by the token: "coalition/operator" and coalition -> micro-USDC."""
    holders = {(entry.address, entry.text("operator")) for entry in decoded(bonded) if entry.name == "Bonded"}
    bonds, balances = {}, {}
    for coalition, operator in sorted(holders):
        answer = await rpc.call(coalition, abi.call("bondOf(address)", operator), head)
        bonds[f"{coalition}/{operator}"] = int(abi.decode(("uint256",), answer)[0])
    for coalition in sorted({address for address, _ in holders}):
        answer = await rpc.call(usdc, abi.call("balanceOf(address)", coalition), head)
        balances[coalition] = int(abi.decode(("uint256",), answer)[0])
    return bonds, balances


NOBODY = "0x" + "0" * 40


class _Reading:
    """One pass up to `head`. Block times are asked for once each."""

    def __init__(self, rpc: Rpc, network: Network, first: int, last: int) -> None:
        self._rpc, self._network, self._first = rpc, network, first
        self.head = max(0, last - network.confirmations + 1)
        self._times: dict[int, int] = {}

    async def entries(self, addresses: Sequence[str], names: Iterable[str]) -> list[Raw]:
        """Entries of these contracts and events; none without addresses."""
        topics = [TOPICS[name] for name in names]
        found: list[Log] = []
        for start in range(0, len(addresses), ADDRESSES_AT_ONCE):
            some = addresses[start : start + ADDRESSES_AT_ONCE]
            for first in range(self._first, self.head + 1, self._network.log_range):
                last = min(self.head, first + self._network.log_range - 1)
                found += await self._rpc.logs(first, last, some, [topics])
        return [await self._raw(log) for log in found]

    async def _raw(self, log: Log) -> Raw:
        time = await self.time_of(log.block_number)
        place = (log.block_number, log.block_hash, time, log.transaction, log.index)
        return Raw(log.address, log.topics, log.data, *place)

    async def time_of(self, number: int) -> int:
        if number not in self._times:
            self._times[number] = (await self._rpc.block(number)).timestamp
        return self._times[number]
