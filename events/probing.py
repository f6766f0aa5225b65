"""When an attestor probes an accused node, and what its probes must show; a moment is an argument.

A node keeps its service level when, in every `sla_ms`, a vantage point can reach it for at least one
`interval_ms` and the answer's time. Who probes by it then sees an answer, and has nothing to state.
"""

import msgspec

from events.slash import Reported

DENSITY = 4
"""Probes in each spacing, so that one that is out of reach now and then is not taken for one that is gone."""
LONGEST_ANSWER_MS = 2_000
"""How long an attestor waits for an answer; less when probes follow each other faster."""

CLOCK_MS = 1_000
"""So much later than its schedule a probe may always leave an attestor that is busy."""


class Rhythm(msgspec.Struct, frozen=True):
    """What follows from a coalition's terms (milliseconds).

    `spacing_ms`: the window over the least number of probes. `sla_ms`: no answer for so long is a breach.
    `gap_ms`: probes further apart than that show nothing.
    """

    spacing_ms: int
    interval_ms: int
    answer_ms: int
    gap_ms: int
    sla_ms: int
    count: int


def rhythm(least_probes: int, longest_probe_window_s: int) -> Rhythm:
    """A failed last probe is known `answer_ms` after it was sent, still inside the window."""
    spacing_ms = longest_probe_window_s * 1000 // least_probes
    steps = DENSITY * max(1, least_probes - 1)
    sla_ms = spacing_ms * max(1, least_probes - 1) if least_probes > 1 else spacing_ms // 2
    interval_ms = sla_ms // steps
    answer_ms = min(LONGEST_ANSWER_MS, interval_ms)
    gap_ms = interval_ms + max(interval_ms, CLOCK_MS)
    return Rhythm(spacing_ms, interval_ms, answer_ms, gap_ms, sla_ms, steps + 1)


def moments(case: Reported, start_unix_ms: int) -> tuple[int, ...]:
    """When to send the probes; none when the case's window no longer holds all of them."""
    beat = rhythm(case.least_probes, case.longest_probe_window_s)
    first = max(start_unix_ms, case.at_unix_ms)
    last = first + beat.sla_ms
    if last + beat.answer_ms > case.at_unix_ms + case.longest_probe_window_s * 1000:
        return ()
    return (*(first + number * beat.interval_ms for number in range(beat.count - 1)), last)
