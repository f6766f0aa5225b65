"""The drill behind `computepool chaos`, on a real stack, and how it reads what it finds."""

from collections import Counter
from pathlib import Path

import pytest

from services.chaos.drill import Plan, Verdict, drill, not_taken
from services.chaos.weather import Weather
from services.stack.node import ROOT

MODEL = ROOT / "tests" / "models" / "tales"


@pytest.mark.long
async def test_a_drill_holds_and_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPUTEPOOL_STATE_DIR", str(tmp_path))
    plan = Plan(Weather(0.2, 0.2, 0.1, 15, 0.1), generations=3, tokens=16, seconds=240)
    verdict = await drill(plan, MODEL, print)
    assert verdict.held
    assert verdict.identical == verdict.generations >= 1
    assert verdict.happened["lost"] > 0
    assert set(verdict.pauses) == {"receiver_stalled", "partition", "mesh_node_stopped"}
    assert verdict.as_dict(plan)["frames_ratio"] > 1


@pytest.mark.parametrize(
    "broken",
    [
        Verdict(0, 0),
        Verdict(3, 2),
        Verdict(3, 3, pauses={"partition": False}),
        Verdict(3, 3, happened=Counter(corrupted=4)),
    ],
)
def test_a_verdict_holds_only_if_all_of_it_does(broken: Verdict) -> None:
    assert Verdict(3, 3, pauses={"partition": True}).held
    assert not broken.held


def test_what_workers_dropped_is_read_from_their_logs() -> None:
    frames = '{"event":"frames","bad_signature":2,"sent":9}'
    log = f'noise\n{frames}\n{{"event":"mesh","rejected_bad_header":3,"polls":1}}\n'
    assert not_taken(log) == {"bad_signature": 2, "bad_header": 3}
