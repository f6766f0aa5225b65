"""The key of a paid session: whoever has it may use the session's money for requests. Knows no payment.

A key is the session's id and our MAC over it: nothing is stored, and the payer can be given it again.
"""

from typing import Any

from services.gateway.secret import Secret
from services.typed_data import typed_data

PREFIX = "cps_"
HEADER = "x-computepool-session-key"
PURPOSE = "session-key"


def key_of(secret: Secret, session_id: str) -> str:
    return f"{PREFIX}{session_id}_{secret.mac(PURPOSE, session_id.encode())}"


def asking(session_id: str, deadline_unix_s: int, chain_id: int) -> dict[str, Any]:
    """EIP-712 typed data by which the payer asks for the key."""
    domain = {"name": "ComputePool", "version": "1", "chainId": chain_id}
    message = {"session": session_id, "deadline": deadline_unix_s}
    return typed_data(domain, "SessionKey", ("string", "uint256"), message)


def session_of(secret: Secret, key: str) -> str | None:
    """The session that this is the key of; None: it is no key of ours."""
    session_id, _, mac = key.removeprefix(PREFIX).partition("_")
    if not key.startswith(PREFIX) or not secret.wrote(PURPOSE, session_id.encode("utf-8", "replace"), mac):
        return None
    return session_id
