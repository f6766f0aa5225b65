"""The headers of a signed callback (mode S), for whoever sends one. Knows no body and no connection."""

from urllib.parse import urlsplit

from services.keeper.signature import VERSION, sign


def signed_headers(
    key: bytes,
    key_id: str,
    *,
    url: str,
    caller: str,
    delivery: str,
    execution: str,
    now_unix_s: int,
    body: bytes,
    method: str = "POST",
) -> dict[str, str]:
    """Fresh ones: a signature is good for five minutes."""
    signed = sign(
        key,
        method=method,
        path=urlsplit(url).path,
        caller=caller,
        delivery=delivery,
        execution=execution,
        timestamp_unix_s=now_unix_s,
        body=body,
    )
    return {
        "X-KeeperHub-Timestamp": str(now_unix_s),
        "X-KeeperHub-Delivery": delivery,
        "X-KeeperHub-Execution": execution,
        "X-KeeperHub-Caller": caller,
        "X-KeeperHub-Key-Id": key_id,
        "X-KeeperHub-Signature": f"{VERSION}={signed}",
    }
