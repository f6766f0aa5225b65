"""An operator's word on its seat in a coalition's next epoch, and what bonds it, as a document to send.

Signed where the payout key is, used where the epoch is opened; knows no REST and no file.
"""

from typing import Annotated

import msgspec
from eth_account.signers.local import LocalAccount

from services.chain.artifacts import artifact
from services.chain.coalitions import Seat
from services.chain.consents import bond_authorization, bond_nonce, seat_consent
from services.chain.contract import Contract
from services.chain.manifest import Manifest
from services.chain.rpc import Rpc
from services.typed_data import recovered_signer, sign_typed

AddressHex = Annotated[str, msgspec.Meta(pattern=r"^0x[0-9a-fA-F]{40}$")]
SignatureHex = Annotated[str, msgspec.Meta(pattern=r"^0x[0-9a-f]{130}$")]
Number = Annotated[int, msgspec.Meta(ge=1, lt=2**31)]


class SignedBond(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """EIP-3009: `micro` of micro-USDC from the operator to the coalition, which alone can use it."""

    micro: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
    nonce: Annotated[str, msgspec.Meta(pattern=r"^0x[0-9a-f]{64}$")]
    signature: SignatureHex


class SignedSeat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`signature`: the operator's consent to this seat in `chain_epoch`; `bond`: what its bond lacks."""

    coalition: AddressHex
    chain_epoch: Number
    node_id: Annotated[str, msgspec.Meta(min_length=26, max_length=26)]
    operator: AddressHex
    units: Annotated[int, msgspec.Meta(ge=1, le=10_000)]
    receipt_key: AddressHex
    signature: SignatureHex
    bond: SignedBond | None = None

    @property
    def seat(self) -> Seat:
        return Seat(self.operator, self.units, self.node_id, self.receipt_key)


class SeatUnsound(Exception):
    """seat_unsound: a signed seat that the contract would not take; the message says why."""

    code = "seat_unsound"


async def bond_missing(rpc: Rpc, coalition: Contract, operator: str) -> tuple[int, int]:
    """(what a seat needs beyond the operator's free bond, its whole bond), in micro-USDC."""
    needed = int(await coalition.read(rpc, "bondNeeded"))
    views = ("bondOf", "lockedOf", "unbondingOf")
    bonded, locked, leaving = [int(await coalition.read(rpc, view, operator)) for view in views]
    return max(0, needed - (bonded - locked - leaving)), bonded


async def next_epoch(rpc: Rpc, coalition: Contract) -> int:
    """The number that consents name now."""
    return int(await coalition.read(rpc, "epoch")) + 1


async def sign_seat(
    rpc: Rpc, manifest: Manifest, coalition: Contract, seat: Seat, payout: LocalAccount
) -> SignedSeat:
    """With the bond that is missing at this moment, whether the wallet holds it or not."""
    chain_id, epoch = await rpc.chain_id(), await next_epoch(rpc, coalition)
    typed = seat_consent(chain_id=chain_id, coalition=coalition.address, epoch=epoch, seat=seat)
    missing, bonded = await bond_missing(rpc, coalition, seat.operator)
    bond = None
    if missing:
        nonce = bond_nonce(coalition.address, seat.operator, bonded)
        bond = SignedBond(missing, nonce, "0x" + "0" * 130)
        payment = await _payment(rpc, manifest, coalition, seat.operator, bond)
        bond = msgspec.structs.replace(bond, signature="0x" + sign_typed(payout, payment))
    return SignedSeat(
        coalition.address, epoch, seat.node_id, seat.operator, seat.units, seat.receipt_key,
        "0x" + sign_typed(payout, typed), bond,
    )  # fmt: skip


async def check_seat(
    rpc: Rpc, manifest: Manifest, coalition: Contract, signed: SignedSeat, seat: Seat
) -> None:
    """Would the contract take it, now, for this seat of the plan? Raises SeatUnsound."""
    chain_id, epoch = await rpc.chain_id(), await next_epoch(rpc, coalition)
    if signed.coalition.lower() != coalition.address.lower() or signed.chain_epoch != epoch:
        raise SeatUnsound(f"it names epoch {signed.chain_epoch} of {signed.coalition}; the next is {epoch}")
    if _spelled(signed.seat) != _spelled(seat):
        raise SeatUnsound(f"the plan's seat of node {seat.node_id} has other units, wallet or receipt key")
    typed = seat_consent(chain_id=chain_id, coalition=coalition.address, epoch=epoch, seat=seat)
    if not _signed_by(seat.operator, recovered_signer(typed, signed.signature)):
        raise SeatUnsound(f"the consent is not signed by {seat.operator}")
    missing, bonded = await bond_missing(rpc, coalition, seat.operator)
    if signed.bond is None:
        if missing:
            raise SeatUnsound(f"the bond of {seat.operator} lacks {missing} micro-USDC")
        return
    if not missing:
        return
    nonce = bond_nonce(coalition.address, seat.operator, bonded)
    if signed.bond.nonce != nonce or signed.bond.micro < missing:
        raise SeatUnsound(f"the bond of {seat.operator} has changed since it signed: {missing} are missing")
    payment = await _payment(rpc, manifest, coalition, seat.operator, signed.bond)
    if not _signed_by(seat.operator, recovered_signer(payment, signed.bond.signature)):
        raise SeatUnsound(f"the bond's authorization is not signed by {seat.operator}")


async def _payment(
    rpc: Rpc, manifest: Manifest, coalition: Contract, operator: str, bond: SignedBond
) -> dict[str, object]:
    usdc = Contract(artifact("MockUSDC"), manifest.at("USDC"))
    return bond_authorization(
        chain_id=await rpc.chain_id(),
        token=usdc.address,
        name=await usdc.read(rpc, "name"),
        version=await usdc.read(rpc, "version"),
        operator=operator,
        coalition=coalition.address,
        micro=bond.micro,
        nonce=bond.nonce,
    )


def _spelled(seat: Seat) -> tuple[str, int, str, str]:
    return seat.operator.lower(), seat.units, seat.node_id, seat.receipt_key.lower()


def _signed_by(operator: str, signer: str | None) -> bool:
    return signer is not None and signer.lower() == operator.lower()
