"""Which sendings of a frame have arrived, so that a copy the mesh made is told from a sender that asks again.

Knows nothing of what a frame is for. Bounded: what is forgotten is answered once too often.
"""

from collections import OrderedDict
from collections.abc import Hashable

KEPT = 64
BITS = 64


class Copies:
    """By frame, however the owner names it."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._seen: OrderedDict[Hashable, int] = OrderedDict()

    def copy(self, frame: Hashable, attempt: int) -> bool:
        """Has this very sending been here before? It has from now on."""
        bit = 1 << attempt if attempt < BITS else 0
        seen = self._seen.get(frame, 0)
        self._seen[frame] = seen | bit
        if len(self._seen) > self._kept:
            self._seen.popitem(last=False)
        return bool(seen & bit)
