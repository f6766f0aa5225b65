"""Mode S: how a callback is signed by who can sign (our own runner), byte for byte.

HMAC-SHA256, lower-case hex, over `v1` and seven lines that name the request, so that no part of it can be
moved to another. Knows no header and no clock.
"""

import hashlib
import hmac
from collections.abc import Iterable

VERSION = "v1"
MOST_SIGNATURES = 4


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


def signed_by(
    keys: Iterable[bytes],
    header: str,
    *,
    method: str,
    path: str,
    caller: str,
    delivery: str,
    execution: str,
    timestamp_unix_s: int,
    body: bytes,
) -> bytes | None:
    """Which of `keys` made one of the signatures in `header`, `v1=<hex>[,v1=<hex>]`. None: none did.

    Two signatures stand there while a sender changes its key.
    """
    listed = (part.strip().partition("=") for part in header.split(",")[:MOST_SIGNATURES])
    given = [digest for version, _, digest in listed if version == VERSION]
    found: bytes | None = None
    for key in keys:
        right = sign(
            key,
            method=method,
            path=path,
            caller=caller,
            delivery=delivery,
            execution=execution,
            timestamp_unix_s=timestamp_unix_s,
            body=body,
        ).encode()
        for one in given:
            if hmac.compare_digest(one.encode(), right):
                found = found or key
    return found
