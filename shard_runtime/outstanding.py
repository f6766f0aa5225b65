"""A frame that was sent and is not yet acknowledged, with its clock; knows not when to repeat it."""

from dataclasses import dataclass

from shard_runtime.frames import Kind, WireDtype


@dataclass(slots=True)
class Outstanding:
    """One part of one message to stage `peer`. Times in nanoseconds of the owner's clock."""

    peer: int
    kind: Kind
    rid: str
    step: int
    n: int
    dtype: WireDtype
    shape: tuple[int, ...]
    part: int
    parts: int
    payload: bytes | memoryview
    digest: str
    patient: bool = False
    """Another stage asks first, should the ring stand still."""
    sig: str = ""
    """Made when first sent; repetitions carry the same."""
    attempt: int = 0
    first_sent_ns: int = 0
    last_sent_ns: int = 0
    due_ns: int = 0
    rto_ns: int = 0
