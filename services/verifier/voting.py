"""An attestor's vote on an evidence, signed; knows no network."""

from eth_account.signers.local import LocalAccount
from msgspec.structs import replace

from events.breach import Breach, VoteCast
from events.evidence import Dissent, hash_of
from events.slash import Reported
from services.typed_data import sign_typed
from services.verifier.attesting import vote_typed
from services.verifier.judge import judge_case

UNSIGNED = "0" * 130


def judged(body: bytes, evidence_hash: str, slash_id: str, case: Reported) -> Breach | Dissent:
    """What follows from the bytes that were handed out under this hash."""
    if hash_of(body) != evidence_hash:
        return Dissent("evidence_altered")
    return judge_case(body, slash_id, case)


def vote_on(
    key: LocalAccount, slash_id: str, case: Reported, evidence_hash: str, found: Breach | Dissent
) -> VoteCast:
    if isinstance(found, Dissent):
        vote = VoteCast(key.address, "dissent", evidence_hash, None, found.reason, UNSIGNED)
    else:
        vote = VoteCast(key.address, "breach", evidence_hash, found, "", UNSIGNED)
    return replace(vote, signature=sign_typed(key, vote_typed(case, slash_id, vote)))
