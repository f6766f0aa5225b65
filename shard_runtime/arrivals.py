"""What the delivery protocol tells its owner; knows nothing of how that was made certain."""

import json
from dataclasses import dataclass

from shard_runtime.frames import Kind

OPEN, END, FAIL = -1, -2, -3
"""Steps of control frames: begin a request, end it, and a stage's word to the entry that it can't go on."""
GO, PARK, OVER = -4, -5, -6
"""Go on from where the KV ends; stand still to be moved; and of a whole ring: nothing comes any more."""
RING = "ring"
"""In place of a request's id, when the whole ring is meant."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """The next thing in order for a request, whole. `hop_ns` is the difference of two nodes' wall clocks."""

    kind: Kind
    sender: int
    rid: str
    step: int
    n: int
    dtype: str
    shape: tuple[int, ...]
    payload: bytes | memoryview
    hop_ns: int


@dataclass(frozen=True, slots=True)
class Confirmed:
    """A peer acknowledged a control frame; `payload` is what it said with it."""

    sender: int
    rid: str
    step: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    """A peer sent `nack` for this request."""

    sender: int
    rid: str
    reason: str


Event = Arrived | Confirmed | Refused


def reason_in(payload: bytes | memoryview) -> str:
    """Of a `nack`; "unknown" when it does not say one."""
    try:
        said = json.loads(bytes(payload[:4096]))
        return str(said.get("reason", "unknown"))[:64] if isinstance(said, dict) else "unknown"
    except (ValueError, RecursionError):
        return "unknown"
