"""A paid chain whose coalition is the real contract: two bonded operators, five attestors, five arbiters.

Knows nothing of the event log.
"""

from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from services.chain import abi, anvil
from services.chain.artifacts import artifact
from services.chain.coalitions import CoalitionTerms, Seat, coalition_of
from services.chain.consents import seat_consent
from services.chain.contract import Contract
from services.chain.rpc import Receipt
from services.typed_data import sign_typed
from shard_runtime.signing import ReceiptKey
from tests.aggregates import ulid
from tests.paid_chain import PaidChain

OPERATORS: tuple[LocalAccount, ...] = tuple(
    Account.from_key(keccak(text=f"an operator in a test {number}")) for number in (1, 2)
)
ATTESTORS: tuple[LocalAccount, ...] = tuple(
    Account.from_key(keccak(text=f"an attestor in a test {number}")) for number in range(5)
)
ARBITERS: tuple[LocalAccount, ...] = tuple(
    Account.from_key(keccak(text=f"an arbiter in a test {number}")) for number in range(5)
)
RECEIPT_KEYS = tuple(ReceiptKey(bytes(anvil.dev_account(number).key)) for number in (2, 3))
"""With which the operators' nodes sign."""
BOND_MICRO = 10_000_000
DISPUTE_WINDOW_S, RULING_WINDOW_S = 600, 1_200
MOST_MICRO = (500_000, 1_000_000, 2_000_000, 3_000_000, 2_000_000)
LEAST_PROBES, PROBE_WINDOW_S = 3, 60
SHARES = (6250, 3750)


class CoalitionChain(PaidChain):
    """The token's owner is the steward."""

    contract: Contract
    deterministic = True
    treasury = "0x" + "7e" * 20

    async def prepare(self) -> None:
        terms = CoalitionTerms(
            steward=self.admin,
            treasury=self.treasury,
            session_limit_micro=5_000_000,
            longest_session_s=100_000,
            least_bond_micro=BOND_MICRO,
            counter_bond_micro=400_000,
            most_per_kind_micro=MOST_MICRO,
            dispute_window_s=DISPUTE_WINDOW_S,
            ruling_window_s=RULING_WINDOW_S,
            unbond_delay_s=200_000,
            least_probes=LEAST_PROBES,
            longest_probe_window_s=PROBE_WINDOW_S,
            deterministic=self.deterministic,
            attestors=tuple(one.address for one in ATTESTORS),
            quorum=3,
            arbiters=tuple(one.address for one in ARBITERS),
            arbiter_quorum=4,
        )
        place = coalition_of(self.manifest, ulid(500), terms)
        await self.send(self.admin, place.factory.address, place.data)
        self.contract = Contract(artifact("Coalition"), place.address)
        self.coalition = place.address
        mint = abi.call("mint(address,uint256)", self.admin, 10 * BOND_MICRO)
        await self.send(self.admin, self.usdc, mint)
        approve = abi.call("approve(address,uint256)", place.address, 10 * BOND_MICRO)
        await self.send(self.admin, self.usdc, approve)
        for operator in OPERATORS:
            await self.tell("bond", operator.address, BOND_MICRO)
        await self.open_epoch(1)
        mint = abi.call("mint(address,uint256)", self.payer.address, 50_000_000)
        await self.send(self.admin, self.usdc, mint)

    async def open_epoch(self, number: int) -> Receipt:
        seats = [
            Seat(one.address, units, ulid(100 + n), to_checksum_address(key.address))
            for n, (one, units, key) in enumerate(zip(OPERATORS, SHARES, RECEIPT_KEYS, strict=True))
        ]
        consents = [
            bytes.fromhex(
                sign_typed(
                    one, seat_consent(chain_id=31337, coalition=self.coalition, epoch=number, seat=seat)
                )
            )
            for one, seat in zip(OPERATORS, seats, strict=True)
        ]
        receipt = await self.tell("openEpoch", [seat.as_tuple() for seat in seats], consents)
        self.gda_pool = str(await self.contract.read(self.rpc, "gdaPool"))
        return receipt

    async def tell(self, function: str, *arguments: object, sender: str = "") -> Receipt:
        """The coalition, by the steward or another account that anvil sends for."""
        return await self.send(
            sender or self.admin, self.coalition, self.contract.calldata(function, *arguments)
        )

    async def as_operator(self, operator: LocalAccount, function: str, *arguments: object) -> Receipt:
        await self.rpc.ask("anvil_setBalance", operator.address, hex(10**18))
        await self.rpc.ask("anvil_impersonateAccount", operator.address)
        return await self.tell(function, *arguments, sender=operator.address)

    async def bond_of(self, operator: LocalAccount) -> int:
        return int(await self.contract.read(self.rpc, "bondOf", operator.address))
