"""An honest operator is never slashed for a silence: random faults, virtual time, real schedule and judge."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from msgspec.structs import replace

from events import node, policies, slash, slash_policies
from events.breach import Breach
from events.evidence import Dissent, assembled, hash_of
from events.probing import rhythm
from services.verifier.judge import judge
from services.verifier.outputs import Open
from services.verifier.probing import Clock, probe
from tests.aggregates import request_started, ulid
from tests.attesting import KEYS, SLASH, case, statement, vote
from tests.money import opened_paid, verified
from tests.slashing import BREACH_TERMS
from tests.spec.test_money_policies import SETTLED
from tests.spec.test_policies import POOL, Told, serving
from tests.spec.test_slash_policies import OPENED

SCHEDULES = 200
CASE = case()
BEAT = rhythm(CASE.least_probes, CASE.longest_probe_window_s)
WINDOW_MS = CASE.longest_probe_window_s * 1000
Outage = tuple[int, int]


def outages(chance: random.Random, longest_ms: int, until_unix_ms: int = CASE.at_unix_ms) -> list[Outage]:
    """Partitions from before the first report on, each at most `longest_ms`, with the least of air between.

    `until_unix_ms`: of the last report.
    """
    now = CASE.at_unix_ms - chance.randrange(longest_ms)
    found = []
    while now < until_unix_ms + WINDOW_MS:
        end = now + chance.randrange(1, longest_ms + 1)
        found.append((now, end))
        now = end + BEAT.interval_ms + BEAT.answer_ms + chance.randrange(BEAT.spacing_ms)
    return found


def is_cut(cuts: Sequence[Outage], from_ms: int, to_ms: int) -> bool:
    """Neither the challenge nor a repeated one gets through in this time."""
    return any(start <= from_ms and to_ms <= end for start, end in cuts)


async def stated(
    key_number: int, cuts: Sequence[Outage], start_ms: int, lag_ms: int, of: slash.Reported = CASE
) -> object:
    """What an attestor finds that begins at `start_ms`. `lag_ms`: how slow answers are on the way."""
    now = [start_ms]

    async def sleep_until(moment_ms: int) -> None:
        now[0] = max(now[0], moment_ms)

    async def ask(_: str, sent_unix_ms: int, wait_ms: int) -> bool:
        silent = is_cut(cuts, sent_unix_ms, sent_unix_ms) or lag_ms > wait_ms
        now[0] += wait_ms if silent else lag_ms
        return not silent

    found = await probe(of, Clock(lambda: now[0], sleep_until), ask)
    return found if isinstance(found, str) else statement(KEYS[key_number], of, found)


def verdict(
    cuts: Sequence[Sequence[Outage]], starts: Sequence[int], lag_ms: int, of: slash.Reported = CASE
) -> slash.Slash:
    """The whole case: every vantage point has faults of its own; whoever may, states, judges and votes."""

    async def everybody() -> list[object]:
        return [await stated(n, cuts[n], starts[n], lag_ms, of) for n in range(len(KEYS))]

    found = asyncio.run(everybody())
    statements = [item for item in found if not isinstance(item, str)]
    body = assembled(SLASH, of, tuple(statements))  # type: ignore[arg-type]
    judged, added = judge(body), slash.EvidenceAdded(hash_of(body), len(body))
    assert not isinstance(judged, Open)
    state = slash.slash.fold((of, added))
    for key, own in zip(KEYS, found, strict=True):
        mine = Dissent("answered_me") if own == "answered" else judged
        cast = slash.CastVote(vote(key, of, mine, added.evidence_hash), of.at_unix_ms)
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


@dataclass
class Watched:
    """A paid pool whose node 1 is cut off at times, and the breaches that the policy reports of it."""

    cuts: Sequence[Outage]
    money: Told = field(default_factory=serving)
    reports: list[tuple[int, slash.Reported]] = field(default_factory=list)
    """With the number of the event that was the cause."""

    def __post_init__(self) -> None:
        attestors = tuple(key.address for key in KEYS)
        terms = replace(BREACH_TERMS, attestors=attestors)
        self.tell(CASE.at_unix_ms, "pool", POOL, replace(OPENED, breach_terms=terms))

    def tell(self, at_unix_ms: int, kind: str, key: str, *events: Any) -> None:
        self.money.tell(kind, key, *events, at_unix_ms=at_unix_ms)
        assert self.money.last is not None
        for do in slash_policies.react(self.money.last, self.money.view):
            assert slash_policies.react(self.money.last, self.money.view)
            self.reports.append((self.money.last.sequence, do.command.reported))

    def look(self, now_unix_ms: int) -> None:
        """The orchestrator's tick: heartbeats come whenever the node is not cut off."""
        cut = [start for start, end in self.cuts if start <= now_unix_ms < end]
        seen = {ulid(1): cut[0] if cut else now_unix_ms, ulid(2): now_unix_ms}
        for do in policies.liveness(self.money.view, seen, now_unix_ms):
            state = self.money.view.nodes[do.aggregate_id]
            self.tell(now_unix_ms, "node", do.aggregate_id, *node.decide(do.command, state))

    def sells(self, moments: Sequence[int], asked_after_ms: int) -> None:
        """A session from each of the moments on, with one request, while the node comes and goes."""
        turns = [
            moment for start, end in self.cuts for moment in (start + policies.LOST_AFTER_MS + 1, end + 1)
        ]
        due: list[tuple[int, int]] = [(moment, -1) for moment in turns]
        due += [(moment, number) for number, moment in enumerate(moments)]
        due += [(moment + asked_after_ms, number) for number, moment in enumerate(moments)]
        for now, number in sorted(due):
            self.look(now)
            key = ulid(7000 + number)
            if number >= 0 and key not in self.money.view.sessions:
                self.tell(now, "session", key, verified(), SETTLED, opened_paid())
            elif number >= 0:
                self.tell(now, "session", key, request_started(number))

    def kinds_of(self, number: int) -> list[str]:
        return [of.kind for _, of in self.reports if of.session_id == ulid(7000 + number)]


def test_whatever_the_policy_reports_of_a_node_within_its_service_level_takes_no_bond() -> None:
    """Sessions begin and requests run in the middle of outages; a silence is one kind for each session."""
    chance = random.Random(22)
    kinds: Counter[str] = Counter()
    for number in range(25):
        until_ms = CASE.at_unix_ms + WINDOW_MS
        watched = Watched(outages(chance, chance.choice((20_000, BEAT.sla_ms - 1)), until_ms))
        moments = sorted(chance.randrange(CASE.at_unix_ms, until_ms) for _ in range(3))
        watched.sells(moments, asked_after_ms=chance.randrange(1, 30_000))
        silences = [(cause, of.session_id) for cause, of in watched.reports]
        assert len(silences) == len(set(silences))
        for _, of in watched.reports:
            kinds[of.kind] += 1
            starts = [of.at_unix_ms + chance.randrange(BEAT.spacing_ms) for _ in KEYS]
            state = verdict([watched.cuts] * len(KEYS), starts, chance.randrange(BEAT.answer_ms), of)
            assert state.quorum is None, f"schedule {number}"
    assert min(kinds["no_show"], kinds["stall"]) > 10


@pytest.mark.parametrize(
    ("gone_after_ms", "kind"), [(-60_000, "no_show"), (-3_000, "no_show"), (500, "stall"), (9_000, "stall")]
)
def test_a_node_that_is_gone_for_good_is_reported_once_and_voted_on(gone_after_ms: int, kind: str) -> None:
    """The control: gone before the session began, or after; its request is asked a millisecond later."""
    began = CASE.at_unix_ms + 100_000
    watched = Watched([(began + gone_after_ms, began + 10 * WINDOW_MS)])
    watched.sells([began], asked_after_ms=1)
    assert watched.kinds_of(0) == [kind]
    ((_, of),) = watched.reports
    state = verdict([watched.cuts] * len(KEYS), [of.at_unix_ms] * len(KEYS), 5, of)
    assert state.quorum is not None
    assert state.quorum.breach.kind == kind
