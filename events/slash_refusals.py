"""Why a report of a breach, its evidence, a vote or a fact is refused; part of `events.slash`."""

from events.kernel import Rejected


class SlashUnknown(Rejected):
    """Nothing was ever reported under this id."""

    code = "slash_unknown"
    remedy = "computepool slash show lists what was reported; computepool slash report reports."


class SlashTermsInvalid(Rejected):
    """The report's quorum, probes, amount or attestors cannot be those of a coalition."""

    code = "slash_terms_invalid"
    remedy = "Take them from the coalition's contract: its address commits to them."


class NotAttestor(Rejected):
    """The signer is no registered attestor of this coalition."""

    code = "not_attestor"
    remedy = "Sign with the key of an address that the coalition's terms name as an attestor."


class AccusedCannotVote(Rejected):
    """The accused operator has no say on its own breach."""

    code = "accused_cannot_vote"
    remedy = "Dispute the claim on the chain instead: computepool slash dispute."


class AlreadySaid(Rejected):
    """This attestor has already said something else on this breach."""

    code = "attestor_already_said"
    remedy = "An attestor's first word counts."


class EvidenceMissing(Rejected):
    """There is no evidence to vote on yet."""

    code = "evidence_missing"
    remedy = "Wait for it: computepool slash show has its hash."


class EvidenceDiffers(Rejected):
    """The evidence of this breach is another."""

    code = "evidence_differs"
    remedy = "Fetch the evidence whose hash slash.evidence_added names, and judge that."


class BreachDiffers(Rejected):
    """The vote is on another escrow, operator, kind, amount or deadline than was reported."""

    code = "breach_differs"
    remedy = "Sign exactly the breach that follows from the evidence: computepool slash vote."


class VotesClosed(Rejected):
    """The time for votes is over, or it is decided already that nothing follows."""

    code = "votes_closed"
    remedy = "Nothing more can be voted here."


class SlashFactInconsistent(Rejected):
    """A fact has no claim that it could be about, or another claim's number."""

    code = "slash_fact_inconsistent"
    remedy = "Read the coalition's log again from the block in which the claim was opened."
