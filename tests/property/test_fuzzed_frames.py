"""Mutated real frames are taken, or dropped and counted; see `tests.fuzz.frames` to go on by hand."""

import time

import pytest

from tests.fuzz.frames import STAGES, Target, corpus, ends, run


def test_the_corpus_holds_and_reaches_the_protocol() -> None:
    target = Target()
    target.reset()
    for raw in corpus():
        target.feed(raw, *ends(raw))
    assert target.taken >= 8
    for raw in corpus():
        for to in range(STAGES):
            for sender in range(STAGES):
                target.feed(raw, to, sender)


def test_mutated_frames_do_no_harm() -> None:
    target = run(seed=1, count=3000)
    assert target.taken > 50
    assert target.dropped > 1000


@pytest.mark.long
def test_mutated_frames_do_no_harm_for_a_minute() -> None:
    target = run(seed=time.time_ns(), until=time.monotonic() + 60)
    assert target.dropped > 1000
