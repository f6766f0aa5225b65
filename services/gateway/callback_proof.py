"""Who sends a callback, by one of two proofs: a signature over all of it, or a run's capability.

A signature (mode S) vouches for every byte. A capability (mode T) only says which run calls: what it tells is
a claim. Pure: takes headers, the raw body, the secret and the time. Knows no store and no chain.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec

from services.keeper import capability
from services.keeper.hook_secret import HookSecret, key_id_of
from services.keeper.signature import signed_by

WINDOW_S = 300
"""A signature's time may be so far from ours, either way."""
MOST_BYTES = 64 * 1024
SIGNATURE = "signature"
"""The proof of every signed callback; a capability's is its nonce."""

Reason = Literal[
    "no_proof", "not_ascii", "stale", "unknown_key", "bad_signature", "bad_capability", "expired", "other_run"
]

_NAME = re.compile(r"[\x21-\x7e]{1,128}")
_UNIX_S = re.compile(r"[0-9]{1,11}")
_HEADERS = ("timestamp", "delivery", "execution", "caller", "key-id", "signature")


class Forged(Exception):
    """callback_forged: nothing proves that one of our runs sends this."""

    code = "callback_forged"

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Malformed(Exception):
    """callback_malformed: a header or a field of the body is missing or not of its form."""

    code = "callback_malformed"


class Body(msgspec.Struct, frozen=True):
    """What every callback says; more fields may stand there."""

    event: str
    run_key: str
    tx_hash: str = ""


@dataclass(frozen=True)
class Callback:
    """New once by `proof` and `delivery` together. `allowed`: what it may tell; None: all of its workflow."""

    proof: str
    delivery: str
    key_id: str | None
    execution: str
    run_key: str
    event: str
    transaction_hash: str | None
    allowed: tuple[str, ...] | None = None


def proven(
    method: str, path: str, headers: Mapping[str, str], body: bytes, secret: HookSecret, now_unix_s: int
) -> Callback:
    """What a sender who proved himself says. `headers` by names in lower case; `path` as he was told it.

    Raises Forged, Malformed.
    """
    looked_at = [headers.get(f"x-keeperhub-{name}", "") for name in _HEADERS]
    if not all(text.isascii() for text in (*looked_at, headers.get("authorization", ""))):
        raise Forged("not_ascii", "A header is not ASCII.")
    if "x-keeperhub-signature" in headers:
        return _signed(method, path, headers, body, secret, now_unix_s)
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Forged("no_proof", "There is neither X-KeeperHub-Signature nor Authorization: Bearer.")
    return _by_capability(token.strip(), body, secret, now_unix_s)


def _signed(
    method: str, path: str, headers: Mapping[str, str], body: bytes, secret: HookSecret, now_unix_s: int
) -> Callback:
    given = {name: headers.get(f"x-keeperhub-{name}", "") for name in _HEADERS}
    for name in ("delivery", "execution", "caller", "key-id"):
        if not _NAME.fullmatch(given[name]):
            raise Malformed(f"X-KeeperHub-{name.title()} must be 1 to 128 visible characters.")
    if not _UNIX_S.fullmatch(given["timestamp"]):
        raise Malformed("X-KeeperHub-Timestamp must be unix seconds.")
    at = int(given["timestamp"])
    key = signed_by(
        secret.all,
        given["signature"],
        method=method,
        path=path,
        caller=given["caller"],
        delivery=given["delivery"],
        execution=given["execution"],
        timestamp_unix_s=at,
        body=body,
    )
    if key is None:
        if secret.by_id(given["key-id"]) is None:
            raise Forged("unknown_key", "No key has that X-KeeperHub-Key-Id, and none of ours signed this.")
        raise Forged("bad_signature", "X-KeeperHub-Signature is not the one of this request.")
    if abs(now_unix_s - at) > WINDOW_S:
        raise Forged("stale", f"X-KeeperHub-Timestamp is more than {WINDOW_S} s away from the time here.")
    said = _said(body)
    return Callback(
        SIGNATURE,
        given["delivery"],
        key_id_of(key),
        given["execution"],
        said.run_key,
        said.event,
        said.tx_hash or None,
    )


def _by_capability(token: str, body: bytes, secret: HookSecret, now_unix_s: int) -> Callback:
    try:
        shown = capability.read(secret.all, token, now_unix_s)
    except capability.CapabilityExpired as expired:
        raise Forged("expired", "This run's capability to call back has expired.") from expired
    except capability.CapabilityInvalid as invalid:
        raise Forged("bad_capability", "This is no capability of ours to call back.") from invalid
    digest = hashlib.sha256(body).hexdigest()[:32]
    said = _said(body)
    if said.run_key != shown.run_key:
        raise Forged("other_run", "This capability is another run's.")
    return Callback(
        shown.nonce,
        f"{said.event}:{digest}",
        None,
        "",
        said.run_key,
        said.event,
        said.tx_hash or None,
        shown.events,
    )


def _said(body: bytes) -> Body:
    try:
        said = msgspec.json.decode(body, type=Body)
    except (msgspec.DecodeError, UnicodeDecodeError) as wrong:
        raise Malformed(f"The body must be JSON with `event` and `run_key`: {wrong}") from wrong
    for name, text in (("event", said.event), ("run_key", said.run_key), ("tx_hash", said.tx_hash or "-")):
        if not _NAME.fullmatch(text):
            raise Malformed(f"`{name}` must be 1 to 128 visible characters.")
    return said
