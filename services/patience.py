"""Waiting for what others have to do: a reason is said once, and pauses grow for as long as it stays.

Knows nothing of what is waited for.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

Say = Callable[[str], None]
FIRST_PAUSE_S = 0.5
GROWTH = 1.5


@dataclass
class Patience:
    """`reason`: why nothing goes on now; empty while all goes on."""

    say: Say
    reason: str = ""
    pause_s: float = FIRST_PAUSE_S

    async def wait(self, reason: str, longest_s: float) -> None:
        """A pause of at most `longest_s` seconds; the first one for this reason is the shortest."""
        await asyncio.sleep(self.next_pause_s(reason, longest_s))

    def next_pause_s(self, reason: str, longest_s: float) -> float:
        """Says the reason when it is another than before."""
        if reason != self.reason:
            self.say(reason)
            self.reason, self.pause_s = reason, FIRST_PAUSE_S
        pause_s = min(self.pause_s, longest_s)
        self.pause_s = min(self.pause_s * GROWTH, longest_s)
        return pause_s

    def over(self) -> None:
        """What was waited for has come."""
        self.reason, self.pause_s = "", FIRST_PAUSE_S
