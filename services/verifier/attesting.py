"""What attestors and nodes sign about breaches (EIP-712, in the coalition's own domain); knows no key.

Source: ICoalition.sol's `openClaim` (Breach) and Receipt. Probes and dissents are for the log only.
"""

from typing import Any

from events.breach import KINDS, Breach, VoteCast
from events.evidence import SignedReceipt, Statement, probes_hash
from events.slash import Reported
from services.typed_data import contract_domain, digest_signer, typed_data, typed_digest

HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0
"""Half of secp256k1's order (EIP-2)."""


def breach_typed(case: Reported, breach: Breach) -> dict[str, Any]:
    """Byte for byte what the contract hashes."""
    message = {
        "session": breach.session,
        "operator": breach.operator,
        "kind": KINDS.index(breach.kind),
        "amount": breach.amount_micro,
        "evidenceHash": "0x" + breach.evidence_hash,
        "failedProbes": breach.failed_probes,
        "probeWindow": breach.probe_window_s,
        "deadline": breach.deadline_unix_s,
    }
    kinds = ("address", "address", "uint8", "uint256", "bytes32", "uint32", "uint32", "uint256")
    return _typed(case, "Breach", kinds, message)


def dissent_typed(case: Reported, slash_id: str, evidence_hash: str, reason: str) -> dict[str, Any]:
    message = {"slashId": slash_id, "evidenceHash": "0x" + evidence_hash, "reason": reason}
    return _typed(case, "Dissent", ("string", "bytes32", "string"), message)


def statement_typed(case: Reported, statement: Statement) -> dict[str, Any]:
    """The attestor is whoever signed."""
    message = {
        "slashId": statement.slash_id,
        "nodeId": statement.node_id,
        "probesHash": "0x" + probes_hash(statement.probes),
    }
    return _typed(case, "Probes", ("string", "string", "bytes32"), message)


def receipt_typed(case: Reported, receipt: SignedReceipt) -> dict[str, Any]:
    message = {
        "epoch": receipt.epoch,
        "session": receipt.session,
        "request": receipt.request,
        "segment": receipt.segment,
        "attempt": receipt.attempt,
        "inputHash": receipt.input_hash,
        "outputHash": receipt.output_hash,
    }
    kinds = ("uint256", "address", "bytes32", "uint32", "uint32", "bytes32", "bytes32")
    return _typed(case, "Receipt", kinds, message)


def vote_typed(case: Reported, slash_id: str, vote: VoteCast) -> dict[str, Any]:
    if vote.breach is not None:
        return breach_typed(case, vote.breach)
    return dissent_typed(case, slash_id, vote.evidence_hash, vote.reason)


def signed_by(address: str, typed: dict[str, Any], signature: str) -> bool:
    return digest_signed_by(address, typed_digest(typed), signature)


def digest_signed_by(address: str, digest: bytes, signature: str) -> bool:
    """As the contract recovers signers: v is 27 or 28, and of the two forms of s the lower one."""
    try:
        vrs = bytes.fromhex(signature)
    except ValueError:
        return False
    if len(vrs) != 65 or vrs[64] not in (27, 28) or int.from_bytes(vrs[32:64], "big") > HALF_ORDER:
        return False
    return digest_signer(digest, vrs[:64] + bytes([vrs[64] - 27])) == address.lower()


def _typed(case: Reported, primary: str, kinds: tuple[str, ...], message: dict[str, Any]) -> dict[str, Any]:
    domain = contract_domain("ComputePool Coalition", "1", case.chain_id, case.coalition)
    return typed_data(domain, primary, kinds, message)
