"""How long a peer takes to answer, and so how long silence must last to mean a loss; reads no clock."""

from dataclasses import dataclass


@dataclass(slots=True)
class RoundTrip:
    """Smoothed time and its deviation, after RFC 6298. Nanoseconds."""

    mean_ns: float = 0.0
    deviation_ns: float = 0.0
    samples: int = 0

    def measured(self, sample_ns: int) -> None:
        """Of a frame that was sent once only: of a repeated one nobody knows which was answered (Karn)."""
        if self.samples == 0:
            self.mean_ns, self.deviation_ns = sample_ns, sample_ns / 2
        else:
            self.deviation_ns += (abs(sample_ns - self.mean_ns) - self.deviation_ns) / 4
            self.mean_ns += (sample_ns - self.mean_ns) / 8
        self.samples += 1

    def patience_ns(self, least_ns: int, unknown_ns: int) -> int:
        """How long to wait; `unknown_ns` while nothing was measured."""
        if self.samples == 0:
            return unknown_ns
        return max(least_ns, int(self.mean_ns + 4 * self.deviation_ns))
