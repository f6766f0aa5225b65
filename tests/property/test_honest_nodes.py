"""An honest operator is never slashed for a silence: random faults, virtual time, real schedule and judge."""

import asyncio
import random
from collections.abc import Sequence
from itertools import pairwise

from events import slash
from events.breach import Breach
from events.evidence import Dissent, assembled, hash_of
from events.probing import rhythm
from services.verifier.judge import judge
from services.verifier.probing import Clock, probe
from tests.attesting import KEYS, SLASH, case, statement, vote

SCHEDULES = 200
CASE = case()
BEAT = rhythm(CASE.least_probes, CASE.longest_probe_window_s)
WINDOW_MS = CASE.longest_probe_window_s * 1000
Outage = tuple[int, int]


def outages(chance: random.Random, longest_ms: int) -> list[Outage]:
    """Partitions from before the report on, each at most `longest_ms`, with the least of air in between."""
    now = CASE.at_unix_ms - chance.randrange(longest_ms)
    found = []
    while now < CASE.at_unix_ms + WINDOW_MS:
        end = now + chance.randrange(1, longest_ms + 1)
        found.append((now, end))
        now = end + BEAT.interval_ms + BEAT.answer_ms + chance.randrange(BEAT.spacing_ms)
    return found


def is_cut(cuts: Sequence[Outage], from_ms: int, to_ms: int) -> bool:
    """Neither the challenge nor a repeated one gets through in this time."""
    return any(start <= from_ms and to_ms <= end for start, end in cuts)


async def stated(key_number: int, cuts: Sequence[Outage], start_ms: int, lag_ms: int) -> object:
    """What an attestor finds that begins at `start_ms`. `lag_ms`: how slow answers are on the way."""
    now = [start_ms]

    async def sleep_until(moment_ms: int) -> None:
        now[0] = max(now[0], moment_ms)

    async def ask(_: str, sent_unix_ms: int, wait_ms: int) -> bool:
        silent = is_cut(cuts, sent_unix_ms, sent_unix_ms) or lag_ms > wait_ms
        now[0] += wait_ms if silent else lag_ms
        return not silent

    found = await probe(CASE, Clock(lambda: now[0], sleep_until), ask)
    return found if isinstance(found, str) else statement(KEYS[key_number], CASE, found)


def verdict(cuts: Sequence[Sequence[Outage]], starts: Sequence[int], lag_ms: int) -> slash.Slash:
    """The whole case: every vantage point has faults of its own; whoever may, states, judges and votes."""

    async def everybody() -> list[object]:
        return [await stated(n, cuts[n], starts[n], lag_ms) for n in range(len(KEYS))]

    found = asyncio.run(everybody())
    statements = [item for item in found if not isinstance(item, str)]
    body = assembled(SLASH, CASE, tuple(statements))  # type: ignore[arg-type]
    judged, added = judge(body), slash.EvidenceAdded(hash_of(body), len(body))
    state = slash.slash.fold((CASE, added))
    for key, own in zip(KEYS, found, strict=True):
        mine = Dissent("answered_me") if own == "answered" else judged
        cast = slash.CastVote(vote(key, CASE, mine, added.evidence_hash), CASE.at_unix_ms)
        if isinstance(state, slash.Slash) and not state.over:
            state = slash.slash.fold(slash.slash.decide(cast, state), state)
    assert isinstance(state, slash.Slash)
    return state


def test_reachable_by_the_service_level_is_never_slashed_in_200_schedules_of_faults() -> None:
    """Also when every vantage point suffers the same partitions, up to just below the SLA."""
    chance = random.Random(20)
    for number in range(SCHEDULES):
        longest_ms = chance.choice((BEAT.interval_ms, BEAT.spacing_ms, BEAT.sla_ms - 1))
        shared = outages(chance, longest_ms)
        same = number % 2 == 0
        cuts = [shared if same else outages(chance, longest_ms) for _ in KEYS]
        starts = [CASE.at_unix_ms + chance.randrange(-5_000, BEAT.spacing_ms) for _ in KEYS]
        for mine in cuts:
            assert all(later[0] - earlier[1] >= BEAT.interval_ms for earlier, later in pairwise(mine))
        state = verdict(cuts, starts, lag_ms=chance.randrange(BEAT.answer_ms))
        assert state.quorum is None, f"schedule {number}"


def test_a_stalled_node_is_voted_on_by_everybody() -> None:
    """The control: the same code, and a node that is stopped for good."""
    chance = random.Random(21)
    for _ in range(5):
        gone = [(CASE.at_unix_ms - 5_000, CASE.at_unix_ms + 2 * WINDOW_MS)]
        starts = [CASE.at_unix_ms + chance.randrange(BEAT.spacing_ms // 2) for _ in KEYS]
        state = verdict([gone] * len(KEYS), starts, lag_ms=5)
        assert state.quorum is not None
        assert isinstance(state.votes[0].breach, Breach)
        assert len(state.quorum.attestors) == CASE.quorum
        assert set(state.quorum.attestors) < {key.address for key in KEYS}


def test_a_node_that_only_two_of_five_cannot_reach_keeps_its_bond() -> None:
    gone = [(CASE.at_unix_ms - 5_000, CASE.at_unix_ms + 2 * WINDOW_MS)]
    state = verdict([gone, gone, [], [], []], [CASE.at_unix_ms] * 5, lag_ms=5)
    assert state.quorum is None
    assert state.rejected == "dissented"
