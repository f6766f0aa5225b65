"""Reads escrows' entries from a chain's log as the meter takes them, with what they do not say themselves.

Block times, units of a gda_pool, and the second at which somebody else ended a stream. Knows no log of ours.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from events import gda
from events.chain import ChainRef
from services.chain import abi, logs
from services.chain.artifacts import artifact
from services.chain.contract import Contract, Said
from services.chain.manifest import Manifest
from services.chain.networks import Network
from services.chain.rpc import Log, Rpc
from services.keeper.meter import Closed, Entry, MinimumPaid, RateSet, StreamLost, Units

Topic = bytes | Sequence[bytes] | None
NAMES = ("RateSet", "MinimumPaid", "StreamLost", "Closed")
TRANSFER = abi.topic("Transfer(address,address,uint256)")
AUTHORIZATION_USED = abi.topic("AuthorizationUsed(address,bytes32)")


def escrow_at(address: str) -> Contract:
    """Raises ArtifactMissing."""
    return Contract(artifact("SessionEscrow"), address)


def topics() -> list[bytes]:
    """The first topics of all entries that the meter takes."""
    contract = escrow_at("0x" + "0" * 40)
    return [contract.topic(name) for name in NAMES]


@dataclass
class Reading:
    """Of one chain; what a block says of its time is asked for once."""

    rpc: Rpc
    network: Network
    manifest: Manifest
    _times: dict[tuple[int, str], int] = field(default_factory=dict)

    async def ref(self, log: Log) -> ChainRef:
        """Where an entry stands. Raises ChainAway, RpcRefused."""
        key = log.block_number, log.block_hash
        if key not in self._times:
            if len(self._times) > 10_000:
                self._times.clear()
            self._times[key] = (await self.rpc.block(log.block_number)).timestamp
        place = (log.block_number, log.block_hash.lower(), self._times[key], log.transaction.lower())
        return ChainRef(self.network.chain_id, *place, log.index)

    async def stands(self, at: ChainRef) -> bool:
        """Whether its block is on the chain; facts of another chain are not this one's to judge.

        Raises ChainAway, RpcRefused.
        """
        ours = at.chain_id == self.network.chain_id
        return not ours or await logs.is_canonical(self.rpc, at.block_number, at.block_hash)

    async def of_escrow(self, address: str, since_unix_s: int, found: Iterable[Log]) -> list[Entry]:
        """One transaction's entries of one escrow. Raises ChainAway, RpcRefused, CallReverted."""
        contract = escrow_at(address)
        said = [one for one in (contract.said(log) for log in found) if one is not None]
        spent = next((int(one.values["spent"]) for one in said if one.name == "Closed"), None)
        return [await self._entry(contract, one, since_unix_s, spent) for one in said if one.name in NAMES]

    async def _entry(self, escrow: Contract, said: Said, since_unix_s: int, spent: int | None) -> Entry:
        at, values = await self.ref(said.log), said.values
        match said.name:
            case "MinimumPaid":
                return MinimumPaid(at, values["gdaPool"].lower(), int(values["amount"]))
            case "Closed":
                return Closed(at, int(values["spent"]), int(values["refund"]))
            case "StreamLost":
                gda_pool = values["gdaPool"].lower()
                ended = await self._ended(escrow.address, gda_pool, since_unix_s, at)
                gone = spent
                if gone is None:
                    gone = int(await escrow.read(self.rpc, "spent", height=at.block_number))
                return StreamLost(at, gda_pool, ended, gone)
            case _:
                flow = (int(values["active"]), int(values["flowRate"]), int(values["hardStop"]))
                return RateSet(at, values["gdaPool"].lower(), *flow)

    async def _ended(self, escrow: str, gda_pool: str, since_unix_s: int, at: ChainRef) -> int:
        """The second of the agreement's last entry that set this escrow's flow to nothing."""
        agreement = self.manifest.at("GDAv1")
        wanted = [gda.FLOW_TOPIC, None, padded(gda_pool), padded(escrow)]
        first = self.manifest.from_block
        for log in reversed(await self.between(first, at.block_number, [agreement], wanted)):
            when = (await self.ref(log)).block_unix_s
            fact = gda.fact_of(log.topics, log.data, when)
            if isinstance(fact, gda.FlowSet) and fact.rate == 0 and when >= since_unix_s:
                return when
        return at.block_unix_s

    async def units_of(self, gda_pool: str, until_block: int) -> Units:
        """Member (lower case) -> units, after that block. Raises ChainAway, RpcRefused, GdaMismatch."""
        found: dict[str, int] = {}
        first = self.manifest.from_block
        for log in await self.between(first, until_block, [gda_pool], [gda.UNITS_TOPIC]):
            fact = gda.fact_of(log.topics, log.data, 0)
            if isinstance(fact, gda.UnitsSet):
                found[fact.member.lower()] = fact.new
        return found

    async def between(
        self, first: int, last: int, addresses: Sequence[str], wanted: Sequence[Topic]
    ) -> list[Log]:
        return await logs.between(self.rpc, self.network, first, last, addresses, wanted)

    async def arrival(self, escrow: str, payer: str, nonce: str, first: int, last: int) -> ChainRef | None:
        """The entry by which this voucher's money came to the escrow, in these blocks.

        A used nonce proves nothing (it can be cancelled): the token's Transfer does, in the transaction that
        used the nonce.
        """
        usdc = self.manifest.at("USDC")
        wanted = [TRANSFER, padded(payer), padded(escrow)]
        for log in await self.between(first, last, [usdc], wanted):
            used = [AUTHORIZATION_USED, padded(payer), bytes.fromhex(nonce.removeprefix("0x"))]
            by = await self.between(log.block_number, log.block_number, [usdc], used)
            if any(one.transaction == log.transaction for one in by):
                return await self.ref(log)
        return None


def padded(address: str) -> bytes:
    """An account as a topic."""
    return bytes(12) + bytes.fromhex(address.removeprefix("0x"))
