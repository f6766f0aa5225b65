"""Proof that a joining node holds its four keys: a challenge, used once, and the signatures over it.

Knows nothing of the log or of NATS permissions. Source: EIP-712; `events.registration` has the typed data.
"""

import base64
import secrets
import time
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from events import node, registration
from events.ids import node_id_of
from services.gateway.refusals import ChallengeInvalid, RegistrationForged
from services.nkey import is_public_user_key
from services.typed_data import recovered_signer, typed_digest

CHALLENGE_TTL_S = 300


@dataclass(frozen=True)
class Challenge:
    """32 random bytes as hex, and when they end."""

    challenge: str
    expires_unix_s: int


class Challenges:
    """The registration_challenges table (Alembic owns it)."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def issue(self) -> Challenge:
        made = Challenge(secrets.token_hex(32), int(time.time()) + CHALLENGE_TTL_S)
        statement = text(
            "INSERT INTO registration_challenges (challenge, expires_at)"
            " VALUES (:challenge, to_timestamp(:expires))"
        )
        tidy = text("DELETE FROM registration_challenges WHERE expires_at < now() - interval '1 day'")
        async with self._engine.begin() as connection:
            await connection.execute(tidy)
            await connection.execute(statement, {"challenge": made.challenge, "expires": made.expires_unix_s})
        return made

    async def use(self, challenge: str, expires_unix_s: int) -> None:
        """Take it, once and in its time. Raises ChallengeInvalid."""
        statement = text(
            "UPDATE registration_challenges SET used_at = now()"
            " WHERE challenge = :challenge AND expires_at = to_timestamp(:expires)"
            " AND expires_at > now() AND used_at IS NULL"
        )
        values = {"challenge": challenge, "expires": expires_unix_s}
        async with self._engine.begin() as connection:
            done = await connection.execute(statement, values)
        if not done.rowcount:
            raise ChallengeInvalid


def proven(claim: dict[str, Any], label: str, signatures: dict[str, str], chain_id: int) -> node.Registered:
    """The registration, when its node id is its mesh key's and all four keys signed it.

    `claim` holds the arguments of `events.registration.registration` but the chain id. Raises
    RegistrationForged, whose `param` is the first part that does not hold.
    """
    if claim["node_id"] != node_id_of(claim["mesh_key"]):
        raise RegistrationForged("node_id does not follow from mesh_key.", param="node_id")
    if not is_public_user_key(claim["nats_key"]):
        raise RegistrationForged("nats_key is not a public NATS user key.", param="nats_key")
    typed = registration.registration(chain_id=chain_id, **claim)
    digest = typed_digest(typed)
    holds = {
        "mesh": lambda signed: _ed25519(bytes.fromhex(claim["mesh_key"]), signed, digest),
        "nats": lambda signed: _ed25519(_nkey_bytes(claim["nats_key"]), signed, digest),
        "receipt": lambda signed: _secp256k1(claim["receipt_key"], signed, typed),
        "payout": lambda signed: _secp256k1(claim["payout_wallet"], signed, typed),
    }
    for signer in registration.SIGNERS:
        if not holds[signer](signatures[signer]):
            raise RegistrationForged(
                f"The {signer} key did not sign this challenge.", param=f"signatures.{signer}"
            )
    bound = {key: value for key, value in claim.items() if key not in ("challenge", "expires_unix_s")}
    return node.Registered(
        label=label, chain_id=chain_id, binding_digest=digest.hex(), signatures=signatures, **bound
    )


def _nkey_bytes(nats_key: str) -> bytes:
    """The 32 bytes of a well-formed public nkey: after the role byte, before the checksum."""
    return base64.b32decode(nats_key)[1:33]


def _ed25519(key: bytes, signature_hex: str, digest: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(bytes.fromhex(signature_hex), digest)
    except (InvalidSignature, ValueError):
        return False
    return True


def _secp256k1(address: str, signature_hex: str, typed: dict[str, Any]) -> bool:
    signer = recovered_signer(typed, signature_hex)
    return signer is not None and signer.lower() == address.lower()
