"""Attestors with real keys, their statements, votes and evidence, for tests; knows no test."""

from eth_account import Account
from eth_account.signers.local import LocalAccount
from msgspec.structs import replace

from events.breach import Breach, VoteCast
from events.evidence import Dissent, Probe, SignedReceipt, Statement, assembled
from events.probing import moments
from events.slash import Reported
from services.typed_data import sign_typed
from services.verifier.attesting import receipt_typed, statement_typed, vote_typed
from tests import slashing
from tests.aggregates import digest, ulid

KEYS: tuple[LocalAccount, ...] = tuple(Account.from_key(f"0x{number:064x}") for number in range(11, 16))
NODE: LocalAccount = Account.from_key(f"0x{77:064x}")
SLASH = ulid(900)
UNSIGNED = "0" * 130


def case(**changes: object) -> Reported:
    """As `slashing.reported`, with attestors and a node whose keys are here."""
    addresses = tuple(key.address for key in KEYS)
    return slashing.reported(**{"attestors": addresses, "receipt_key": NODE.address} | changes)


def silent(of: Reported, late_ms: int = 0) -> tuple[Probe, ...]:
    """Failed probes exactly on schedule."""
    sent = moments(of, of.at_unix_ms + late_ms)
    return tuple(Probe(moment, digest(number + 1), False) for number, moment in enumerate(sent))


def statement(key: LocalAccount, of: Reported, probes: tuple[Probe, ...], slash_id: str = SLASH) -> Statement:
    said = Statement(slash_id, of.node_id, key.address, probes, UNSIGNED)
    return replace(said, signature=sign_typed(key, statement_typed(of, said)))


def evidence(of: Reported, *keys: LocalAccount, slash_id: str = SLASH) -> bytes:
    """Everybody says that the node was silent."""
    return assembled(slash_id, of, tuple(statement(key, of, silent(of), slash_id) for key in keys))


def receipt(of: Reported, output: int, key: LocalAccount = NODE, **changes: object) -> SignedReceipt:
    values: dict[str, object] = {
        "epoch": 1,
        "session": of.escrow,
        "request": "0x" + digest(5),
        "segment": 3,
        "attempt": 0,
        "input_hash": "0x" + digest(6),
        "output_hash": "0x" + digest(output),
        "signature": UNSIGNED,
    }
    said = SignedReceipt(**(values | changes))  # type: ignore[arg-type]
    return replace(said, signature=sign_typed(key, receipt_typed(of, said)))


def vote(
    key: LocalAccount, of: Reported, judged: Breach | Dissent, evidence_hash: str, slash_id: str = SLASH
) -> VoteCast:
    if isinstance(judged, Breach):
        said = VoteCast(key.address, "breach", evidence_hash, judged, "", UNSIGNED)
    else:
        said = VoteCast(key.address, "dissent", evidence_hash, None, judged.reason, UNSIGNED)
    return replace(said, signature=sign_typed(key, vote_typed(of, slash_id, said)))
