"""A breach as attestors sign it, and one attestor's word on it; part of a slash's history.

Knows no signature scheme and no evidence: what was signed is verified before it comes here.
"""

from typing import Annotated, Literal, get_args

import msgspec

from events.kernel import Address, Event, Hash

Kind = Literal["no_show", "stall", "wrong_output", "equivocation", "meter_fraud"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""In the contract's order: the index is its number there."""
Micro = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1, description="micro-USDC")]
Signature = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{130}$", description="65 bytes r, s, v; hex")]


class Breach(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """ICoalition.sol's struct, field by field. `session` is the escrow's address."""

    session: Address
    operator: Address
    kind: Kind
    amount_micro: Micro
    evidence_hash: Hash
    failed_probes: int
    probe_window_s: int
    deadline_unix_s: int


class VoteCast(Event, frozen=True, tag="slash.vote_cast.v1"):
    """One attestor's signed word on the evidence. A dissent has a `reason` instead of a `breach`."""

    attestor: Address
    verdict: Literal["breach", "dissent"]
    evidence_hash: Hash
    breach: Breach | None
    reason: Annotated[str, msgspec.Meta(max_length=64)]
    signature: Signature
