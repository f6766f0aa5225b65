"""What the gateway itself refuses about breaches; as `services.gateway.refusals`."""

from services.gateway.refusals import Problem


class AttestationForged(Problem):
    """The statement or vote is not signed by its attestor, or not as the contract takes signatures."""

    code = "attestation_forged"
    remedy = "Sign with the attestor's key: 65 bytes r, s, v with a low s and v 27 or 28."


class EvidenceUnproven(Problem):
    """No breach follows from what was sent; the detail is the reason."""

    code = "evidence_unproven"
    remedy = "docs/slashing.md lists the reasons; computepool slash show has the case."


class EvidenceUnknown(Problem):
    """No evidence of this hash is kept here."""

    code = "evidence_unknown"
    remedy = "Take the hash from GET /slashes/{slash_id}."


class EvidenceNotTheReporters(Problem):
    """What only a recomputation can judge is taken from whoever reported the breach, or an operator."""

    code = "evidence_not_the_reporters"
    remedy = "Send it with the token that reported: computepool slash report --transcript does both."


class SeatUnknown(Problem):
    """The node had no layers in a plan of this number, or the report names no `attempt`."""

    code = "seat_unknown"
    remedy = "Take node and attempt from the transcript of the answer."


class BreachTermsUnknown(Problem):
    """Nobody has told the log who attests for this pool, or the session was not paid to its coalition."""

    code = "breach_terms_unknown"
    remedy = "Open the pool's coalition with its terms: computepool pools open-coalition."
