"""One attestor's probes of one node, by the schedule of the case; clock and way are given from outside.

Knows nothing of keys or of how a probe travels.
"""

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from events.evidence import Probe, flaw_of
from events.probing import moments, rhythm
from events.slash import Reported

Ask = Callable[[str, int, int], Awaitable[bool | None]]
"""(nonce, sent at, wait so many ms) -> answered by the node's key; None: it could not be asked at all."""
Found = Literal["answered", "unknown"]
RETRY_MS = 200


@dataclass(frozen=True)
class Clock:
    """Unix milliseconds."""

    now_ms: Callable[[], int]
    sleep_until_ms: Callable[[int], Awaitable[None]]


async def probe(case: Reported, clock: Clock, ask: Ask) -> tuple[Probe, ...] | Found:
    """The failed probes of a silent node. `answered`: it spoke, once is enough; `unknown`: nothing is shown.

    Begins at once; ends at the first answer, or when the schedule is through. A probe that could not be sent
    is sent again as long as the gap that it leaves may be: an attestor's own outage is not the node's.
    """
    await clock.sleep_until_ms(case.at_unix_ms)
    beat = rhythm(case.least_probes, case.longest_probe_window_s)
    probes: list[Probe] = []
    for moment in moments(case, clock.now_ms()):
        earliest = probes[0].sent_unix_ms + beat.sla_ms if len(probes) == beat.count - 1 else 0
        await clock.sleep_until_ms(max(moment, earliest))
        latest = (probes[-1].sent_unix_ms if probes else moment) + beat.gap_ms
        while True:
            nonce, sent_unix_ms = secrets.token_hex(32), clock.now_ms()
            answered = await ask(nonce, sent_unix_ms, beat.answer_ms) if sent_unix_ms <= latest else None
            if answered is not None:
                break
            if sent_unix_ms > latest:
                return "unknown"
            await clock.sleep_until_ms(clock.now_ms() + RETRY_MS)
        if answered:
            return "answered"
        probes.append(Probe(sent_unix_ms, nonce, False))
    found = tuple(probes)
    return found if found and flaw_of(case, found) is None else "unknown"
