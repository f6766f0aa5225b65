"""The last inputs that a stage took for each request, with their senders' signatures, for a later dispute.

Knows nothing of what a dispute is. Bounded twice, since nobody may ever ask: a few inputs per request, the
latest requests only; ended ones stay until newer ones push them out.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass

from shard_runtime.frames import Header
from shard_runtime.signing import statement

INPUTS = 32
REQUESTS = 64


@dataclass(frozen=True, slots=True)
class Signed:
    """`said` is the statement itself, so that whoever reads it needs none of our code to check it."""

    said: bytes
    signature: str


class Evidence:
    """By request id. Two parts of one tensor are two inputs."""

    def __init__(self) -> None:
        self._inputs: OrderedDict[str, deque[Signed]] = OrderedDict()

    def keep(self, header: Header) -> None:
        """The frame was verified and its bytes are used."""
        inputs = self._inputs.get(header.rid)
        if inputs is None:
            inputs = self._inputs[header.rid] = deque(maxlen=INPUTS)
            while len(self._inputs) > REQUESTS:
                self._inputs.popitem(last=False)
        inputs.append(Signed(statement(header), header.sig))

    def of(self, rid: str) -> tuple[Signed, ...]:
        """Oldest first; empty when nothing is kept."""
        return tuple(self._inputs.get(rid, ()))
