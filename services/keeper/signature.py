"""Mode S: how a callback is signed by who can sign (our own runner), byte for byte.

HMAC-SHA256, lower-case hex, over `v1` and seven lines that name the request, so that no part of it can be
moved to another. Knows no header and no clock.
"""

import hashlib
import hmac

VERSION = "v1"


def sign(
    secret: bytes,
    *,
    method: str,
    path: str,
    caller: str,
    delivery: str,
    execution: str,
    timestamp_unix_s: int,
    body: bytes,
) -> str:
    """What stands after `v1=` in X-KeeperHub-Signature."""
    lines = (
        VERSION,
        method,
        path,
        caller,
        delivery,
        execution,
        str(timestamp_unix_s),
        hashlib.sha256(body).hexdigest(),
    )
    return hmac.new(secret, "\n".join(lines).encode(), hashlib.sha256).hexdigest()
