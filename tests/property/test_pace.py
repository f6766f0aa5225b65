"""How often a node that can't wait is looked at: often while an answer may come, seldom else."""

from hypothesis import given
from hypothesis import strategies as st

from shard_runtime.pace import FAST_S, IDLE_S, LATE_S, LINGER_S, LONGEST_SKIP_S, Pace


def looks(pace: Pace, begin_s: float, end_s: float, expecting: bool) -> list[float]:
    """The moments of looks that find nothing."""
    moments, now_s = [], begin_s
    while now_s < end_s:
        moments.append(now_s)
        now_s += pace.pause_s(now_s, expecting)
    return moments


def test_nobody_expected_is_looked_for_twenty_times_a_second() -> None:
    pace = Pace(0.0)
    pace.heard(0.0)
    late = looks(pace, LINGER_S + 2.0, LINGER_S + 3.0, expecting=False)
    settled = looks(pace, LINGER_S + 3.0, LINGER_S + 4.0, expecting=False)
    assert abs(len(settled) - 1 / IDLE_S) <= 1
    assert len(late) < 40


def test_a_word_of_ours_makes_it_fast_again() -> None:
    pace = Pace(0.0)
    looks(pace, 2.0, 5.0, expecting=False)
    pace.spoke(5.0)
    assert pace.pause_s(5.0, expecting=False) <= LATE_S


def test_while_tokens_come_steadily_half_of_the_time_nobody_looks() -> None:
    """A step of 20 ms: the first look comes after 10 ms, then one each millisecond."""
    pace, now_s = Pace(0.0), 0.0
    for _ in range(60):
        now_s += 0.020
        pace.heard(now_s)
    found = looks(pace, now_s, now_s + 0.020, expecting=True)
    assert found[1] - now_s >= 0.0098
    assert 9 <= len(found) <= 12


def test_messages_close_together_leave_no_time_unwatched() -> None:
    pace = Pace(0.0)
    pace.heard(1.0)
    pace.heard(1.0003)
    assert pace.pause_s(1.001, expecting=True) == FAST_S


@given(
    st.lists(st.floats(0.0001, 3.0), max_size=20),
    st.floats(0.0, 60.0),
    st.booleans(),
)
def test_a_message_never_waits_longer_than_a_hundredth_of_the_silence_or_half_a_gap(
    gaps: list[float], silence_s: float, expecting: bool
) -> None:
    pace, now_s = Pace(0.0), 0.0
    for gap_s in gaps:
        now_s += gap_s
        pace.heard(now_s)
    pause_s = pace.pause_s(now_s + silence_s, expecting)
    assert FAST_S <= pause_s <= max(IDLE_S, LONGEST_SKIP_S)
    if expecting and silence_s > LONGEST_SKIP_S:
        assert pause_s <= max(FAST_S, min(LATE_S, silence_s / 100)) + 1e-9
    if gaps and expecting:
        assert pause_s <= max(FAST_S, max(gaps) / 2, silence_s / 100) + 1e-9
