"""How long a client of a mesh node that can't wait sleeps between two looks at /recv.

Knows nothing of sockets and reads no clock. Each look costs time that the computing thread would use, so:
none while no answer can have come yet, fast when one may, a hundredth of the silence when it is late, seldom
when nobody is expected. `polls` and `received` among the counts of `Axl` tell what it came to.
"""

FAST_S = 0.001
"""Timers of the event loop are no finer."""
LATE_S = 0.01
IDLE_S = 0.05
LINGER_S = 1.0
"""After the last message or the last word of ours, somebody is still expected for so long."""
LONGEST_SKIP_S = 0.05


class Pace:
    """Times in seconds of the owner's clock."""

    def __init__(self, now_s: float) -> None:
        self._heard_s = self._spoke_s = now_s
        self._gap_s = 0.0
        self._idle_s = FAST_S

    def heard(self, now_s: float) -> None:
        """A message came. The shortest time between two lately tells when the next may come."""
        gap_s = now_s - self._heard_s
        self._heard_s = now_s
        if gap_s < LINGER_S:
            self._gap_s = min(gap_s, self._gap_s + (gap_s - self._gap_s) / 8)
        self._idle_s = FAST_S

    def spoke(self, now_s: float) -> None:
        """A message of ours went out, so an answer may come."""
        self._spoke_s = now_s
        self._idle_s = FAST_S

    def pause_s(self, now_s: float, expecting: bool) -> float:
        """After a look that found nothing. `expecting`: a request is under way here."""
        if not expecting and now_s - max(self._heard_s, self._spoke_s) > LINGER_S:
            self._idle_s = min(IDLE_S, 1.5 * self._idle_s)
            return self._idle_s
        silence_s = now_s - self._heard_s
        early_s = min(self._gap_s / 2, LONGEST_SKIP_S) - silence_s
        return max(FAST_S, early_s, min(silence_s / 100, LATE_S))
