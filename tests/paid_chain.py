"""Paid sessions on a real anvil: real Superfluid, our escrows, one coalition with two operators.

What operators receive is read from their gda_pool, never computed. Knows nothing of the event log.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_typing import Hash32
from eth_utils.crypto import keccak

from events.chain import ChainRef, Share
from services.chain import abi, anvil
from services.chain.artifacts import CONTRACTS, read_json
from services.chain.manifest import Manifest
from services.chain.rpc import Log, Receipt, Rpc
from services.chain.transactions import receipt_of
from tests.anvil import next_at

UNITS = {"0x" + "11" * 20: 6250, "0x" + "22" * 20: 3750}
RATE = 50 * 10**12
CAP_MICRO = 2_000_000
TERMS = "(address,address,uint96,uint64,uint64,uint32,uint32,uint64,uint64,address,bytes32)"
VOUCHER = "(address,uint256,uint256,uint256,bytes32,bytes)"
TRANSFER = "(address,uint256,uint256,uint256,bytes32,bytes)"


@dataclass(frozen=True)
class PaidSession:
    """`terms` and `voucher` as the contracts take them."""

    escrow: str
    terms: tuple[Any, ...]
    voucher: tuple[Any, ...]

    @property
    def nonce(self) -> str:
        return bytes(self.voucher[4]).hex()


class PaidChain:
    """Use through `prepare`. Account 0 owns the token, account 1 controls the sessions."""

    def __init__(self, rpc: Rpc, manifest: Manifest) -> None:
        self.rpc, self.manifest = rpc, manifest
        self.admin, self.controller = (anvil.dev_account(n).address for n in (0, 1))
        self.payer: LocalAccount = Account.from_key(keccak(text="a payer in a test"))
        self.usdc, self.factory = manifest.at("USDC"), manifest.at("SessionEscrowFactory")
        self.coalition = self.gda_pool = ""
        self._received = dict.fromkeys(UNITS, 0)

    async def prepare(self) -> None:
        forwarder = self.manifest.at("GDAv1Forwarder")
        code = read_json(CONTRACTS / "out" / "SessionWorld.sol" / "PlainCoalition.json")["bytecode"]["object"]
        made = await self.rpc.ask("eth_sendTransaction", {"from": self.admin, "data": code})
        await receipt_of(self.rpc, made, 30)
        self.coalition = (await self.rpc.ask("eth_getTransactionReceipt", made))["contractAddress"]
        signature = "createPool(address,address,(bool,bool))"
        asked = abi.call(signature, self.manifest.at("USDCx"), self.admin, (False, True))
        answer = await self.rpc.call(forwarder, asked, sender=self.admin)
        self.gda_pool = str(abi.decode(("bool", "address"), answer)[1])
        await self.send(self.admin, forwarder, asked)
        for member, units in UNITS.items():
            data = abi.call(
                "updateMemberUnits(address,address,uint128,bytes)", self.gda_pool, member, units, b""
            )
            await self.send(self.admin, forwarder, data)
        await self.send(self.admin, self.coalition, abi.call("point(address)", self.gda_pool))
        mint = abi.call("mint(address,uint256)", self.payer.address, 10 * CAP_MICRO)
        await self.send(self.admin, self.usdc, mint)

    async def send(self, sender: str, to: str, data: bytes) -> Receipt:
        """From one of anvil's own accounts; returns when it is mined."""
        gas = await self.rpc.estimate(sender, to, data)
        asked = {"from": sender, "to": to, "data": "0x" + data.hex(), "gas": hex(gas * 2)}
        receipt = await receipt_of(self.rpc, await self.rpc.ask("eth_sendTransaction", asked), 30)
        assert receipt.succeeded
        return receipt

    async def wait(self, seconds: int) -> None:
        """The next transaction's block is so many seconds later."""
        await next_at(self.rpc, (await self.rpc.block()).timestamp + seconds)

    async def agree(self, number: int, named: bool = True) -> PaidSession:
        """Terms, which may name the payer, and his signature to the address that commits to them."""
        now = (await self.rpc.block()).timestamp
        payer = self.payer.address if named else "0x" + "0" * 40
        terms = (
            payer, self.coalition, RATE, 100_000, CAP_MICRO, 2, 4, now + 3600, now + 86_400,
            self.controller, number.to_bytes(32, "big"),
        )  # fmt: skip
        answer = await self.rpc.call(self.factory, abi.call(f"addressOf({TERMS})", terms))
        escrow = str(abi.decode(("address",), answer)[0])
        nonce = keccak(number.to_bytes(32, "big"))
        domain = await self.rpc.call(self.usdc, abi.call("DOMAIN_SEPARATOR()"))
        typehash = await self.rpc.call(self.usdc, abi.call("TRANSFER_WITH_AUTHORIZATION_TYPEHASH()"))
        body = abi.encode(
            ("address", "address", "uint256", "uint256", "uint256", "bytes32"),
            self.payer.address, escrow, CAP_MICRO, 0, now + 3600, nonce,
        )  # fmt: skip
        signed = self.payer.unsafe_sign_hash(Hash32(keccak(b"\x19\x01" + domain + keccak(typehash + body))))
        voucher = (self.payer.address, CAP_MICRO, 0, now + 3600, nonce, bytes(signed.signature))
        return PaidSession(escrow, terms, voucher)

    async def settle(self, paid: PaidSession) -> ChainRef:
        """The voucher's money goes to the escrow's address, as a facilitator does it."""
        source, value, after, before, nonce, signature = paid.voucher
        data = abi.call(
            "transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,bytes)",
            source, paid.escrow, value, after, before, nonce, signature,
        )  # fmt: skip
        receipt = await self.send(self.admin, self.usdc, data)
        return await self.ref(receipt, self.usdc, "Transfer(address,address,uint256)")

    async def open(self, paid: PaidSession, active: int) -> Receipt:
        data = abi.call(f"open({TERMS},{VOUCHER},uint32)", paid.terms, paid.voucher, active)
        return await self.send(self.controller, self.factory, data)

    async def set_active(self, paid: PaidSession, active: int) -> Receipt:
        return await self.send(self.controller, paid.escrow, abi.call("setActive(uint32)", active))

    async def close(self, paid: PaidSession) -> Receipt:
        return await self.send(self.controller, paid.escrow, abi.call("close()"))

    async def number(self, to: str, signature: str) -> int:
        return int(abi.decode(("uint256",), await self.rpc.call(to, abi.call(signature)))[0])

    async def usdc_of(self, account: str) -> int:
        answer = await self.rpc.call(self.usdc, abi.call("balanceOf(address)", account))
        return int(abi.decode(("uint256",), answer)[0])

    async def received(self) -> tuple[Share, ...]:
        """What each operator has got since the last call, by its gda_pool's own word."""
        found = []
        for member, units in UNITS.items():
            data = abi.call("getTotalAmountReceivedByMember(address)", member)
            total = int(abi.decode(("uint256",), await self.rpc.call(self.gda_pool, data))[0])
            if total != self._received[member]:
                found.append(Share(member, units, str(total - self._received[member])))
            self._received[member] = total
        return tuple(found)

    async def ref(self, receipt: Receipt, address: str, signature: str) -> ChainRef:
        """Where the contract's last entry of this kind stands."""
        log = _entries(receipt.logs, address, signature)[-1]
        block = await self.rpc.block(log.block_number)
        return ChainRef(31337, block.number, block.hash, block.timestamp, log.transaction, log.index)


def _entries(logs: Sequence[Log], address: str, signature: str) -> list[Log]:
    topic = abi.topic(signature)
    return [log for log in logs if log.address.lower() == address.lower() and log.topics[0] == topic]
