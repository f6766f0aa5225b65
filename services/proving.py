"""Two outputs for one input, from transcripts to the contract that needs no vote for them.

Knows no gateway and no log. Source: ICoalition.sol's `proveEquivocation`.
"""

from dataclasses import dataclass

from eth_account.signers.local import LocalAccount
from eth_utils.address import to_checksum_address

from events.evidence import SignedReceipt
from services.accusing import NothingTwice, NotInTranscript, two_outputs
from services.chain.artifacts import artifact
from services.chain.contract import Contract
from services.chain.own_call import CallFailed, call_by
from services.chain.rpc import Rpc
from shard_runtime.receipts import Terms
from shard_runtime.transcripts import Transcript


class ProofRefused(Exception):
    """proof_refused: the coalition did not take the two receipts; the message says why."""

    code = "proof_refused"
    remedy = "docs/slashing.md, Without a vote; computepool slash report takes the same two to a vote."


@dataclass(frozen=True)
class Contradiction:
    """One node's two receipts."""

    node_id: str
    terms: Terms
    first: SignedReceipt
    second: SignedReceipt

    @property
    def coalition(self) -> Contract:
        return Contract(artifact("Coalition"), to_checksum_address(self.terms.coalition))

    @property
    def calldata(self) -> bytes:
        told = [part for one in (self.first, self.second) for part in (_struct(one), _bytes(one.signature))]
        return self.coalition.calldata("proveEquivocation", to_checksum_address(self.terms.escrow), *told)


def contradiction(one: Transcript, other: Transcript) -> Contradiction:
    """The first node of the ring that signed two outputs for one input. Raises NothingTwice."""
    for member in one.members:
        try:
            first, second = two_outputs(one, other, member.node_id)
        except (NothingTwice, NotInTranscript):
            continue
        return Contradiction(member.node_id, one.terms, first, second)
    raise NothingTwice("every node that signed in both transcripts signed one output for each input")


async def prove(rpc: Rpc, wallet: LocalAccount, found: Contradiction) -> str:
    """The transaction's hash, once it is mined: the operator is evicted and slashed by it.

    Raises ProofRefused, NotAnswered (no coalition stands there), ReceiptOverdue, ChainAway.
    """
    if (chain_id := await rpc.chain_id()) != found.terms.chain_id:
        raise ProofRefused(f"the receipts are for chain {found.terms.chain_id}, the RPC is of {chain_id}")
    if not await found.coalition.read(rpc, "deterministic"):
        raise ProofRefused("NotDeterministic(): its members may compute other bits")
    try:
        return await call_by(rpc, wallet, found.coalition.address, found.calldata)
    except CallFailed as failed:
        raise ProofRefused(str(failed)) from failed


def _struct(receipt: SignedReceipt) -> tuple[object, ...]:
    hashes = (_bytes(receipt.input_hash), _bytes(receipt.output_hash))
    where = (receipt.segment, receipt.attempt)
    return (receipt.epoch, to_checksum_address(receipt.session), _bytes(receipt.request), *where, *hashes)


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))
