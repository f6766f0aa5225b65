"""An attestor's vote on an evidence, signed; knows no network."""

from collections.abc import Sequence
from pathlib import Path

from eth_account.signers.local import LocalAccount
from msgspec.structs import replace

from events.breach import Breach, VoteCast
from events.evidence import Dissent, hash_of
from events.slash import Reported
from services.typed_data import sign_typed
from services.verifier.attesting import vote_typed
from services.verifier.judge import judge_case
from services.verifier.outputs import Open
from services.verifier.recomputing import NotRecomputed, Told, recomputed

UNSIGNED = "0" * 130
IMPOSSIBLE = "rerun_invalid"
"""No answer of this model has such tokens, so nobody can have signed for it."""


async def judged(
    body: bytes,
    evidence_hash: str,
    slash_id: str,
    case: Reported,
    models: Sequence[Path] = (),
    told: Told = lambda progress: None,
) -> Breach | Dissent:
    """What follows from the bytes that were handed out under this hash, computed again where it must be.

    `models`: directories of models. Raises NotRecomputed: then there is nothing to vote.
    """
    if hash_of(body) != evidence_hash:
        return Dissent("evidence_altered")
    found = judge_case(body, slash_id, case)
    if not isinstance(found, Open):
        return found
    try:
        return found.concluded(await recomputed(found.rerun, models, told))
    except NotRecomputed as failed:
        if failed.reason == IMPOSSIBLE:
            return Dissent("input_differs")
        raise


def vote_on(
    key: LocalAccount, slash_id: str, case: Reported, evidence_hash: str, found: Breach | Dissent
) -> VoteCast:
    if isinstance(found, Dissent):
        vote = VoteCast(key.address, "dissent", evidence_hash, None, found.reason, UNSIGNED)
    else:
        vote = VoteCast(key.address, "breach", evidence_hash, found, "", UNSIGNED)
    return replace(vote, signature=sign_typed(key, vote_typed(case, slash_id, vote)))
