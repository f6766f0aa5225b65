"""Mode T: what a run that cannot sign shows when it calls back, `cpcb1.<claims>.<HMAC>`.

It names one run, the events that this run may tell, and until when. It proves who calls, not what he says. A
run always gets the same one, because a backend compares inputs. Knows no store of what was used.
"""

import base64
import binascii
import hashlib
import hmac

import msgspec

from events.workflow import WorkflowName
from services.keeper.definitions import callback_events

PREFIX = "cpcb1"
LIFE_S = 900
"""Longer than any run takes while its chain answers; later, polling finds what a callback would tell."""


class CapabilityInvalid(Exception):
    """capability_invalid: this is not a capability of ours, or not any more."""

    code = "capability_invalid"


class CapabilityExpired(CapabilityInvalid):
    """capability_expired: its run was asked for too long ago; what it would tell is found by polling."""

    code = "capability_expired"


class Capability(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`exp`: unix seconds. `nonce` names the capability itself."""

    run_key: str
    workflow: WorkflowName
    events: tuple[str, ...]
    exp: int
    nonce: str


def capability(secret: bytes, run_id: str, workflow: WorkflowName, requested_unix_ms: int) -> str:
    """Of a run that was asked for at that moment."""
    nonce = hmac.new(secret, f"nonce {run_id}".encode(), hashlib.sha256).hexdigest()[:32]
    exp = requested_unix_ms // 1000 + LIFE_S
    claims = _text(msgspec.json.encode(Capability(run_id, workflow, callback_events(workflow), exp, nonce)))
    return f"{PREFIX}.{claims}.{_text(_mac(secret, claims))}"


def read(secrets: tuple[bytes, ...], text: str, now_unix_s: int) -> Capability:
    """What it allows. `secrets`: the present one and, while keys rotate, the one before.

    Raises CapabilityInvalid, CapabilityExpired.
    """
    parts = text.split(".")
    if len(parts) != 3 or parts[0] != PREFIX:
        raise CapabilityInvalid("not of this form")
    try:
        mac = _bytes(parts[2])
        right = [hmac.compare_digest(mac, _mac(secret, parts[1])) for secret in secrets]
        if not any(right):
            raise CapabilityInvalid("not signed by us")
        found = msgspec.json.decode(_bytes(parts[1]), type=Capability)
    except (binascii.Error, ValueError) as broken:
        raise CapabilityInvalid("not of this form") from broken
    if now_unix_s >= found.exp:
        raise CapabilityExpired
    return found


def _mac(secret: bytes, claims: str) -> bytes:
    return hmac.new(secret, f"{PREFIX}.{claims}".encode(), hashlib.sha256).digest()


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
