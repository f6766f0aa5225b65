"""What a session's decider decides."""

import pytest

from events import moves, session
from events.session import session as decider
from tests.aggregates import FAR_FUTURE_MS, generation_ended, opened, request_started, start_request, ulid
from tests.spec.scenario import given

OPENED = opened()
STARTED = request_started(1)
ENDED = generation_ended(1)


def end(ended: session.GenerationEnded, by: str | None = None) -> session.EndGeneration:
    return session.EndGeneration(ended, reported_by=by)


def test_a_session_opens_once() -> None:
    given(decider).when(session.Open(OPENED)).then(OPENED)
    given(decider, OPENED).when(session.Open(OPENED)).nothing()
    given(decider, OPENED).when(session.Open(opened(payer="key:2"))).refused(session.SessionAlreadyOpen)


@pytest.mark.parametrize("command", [start_request(1), end(ENDED), session.Settle(), session.Expire(1)])
def test_an_unknown_session_can_do_nothing(command: session.SessionCommand) -> None:
    given(decider).when(command).refused(session.SessionUnknown)


def test_its_payer_starts_requests() -> None:
    given(decider, OPENED).when(start_request(1)).then(STARTED)
    given(decider, OPENED, STARTED).when(start_request(1)).nothing()
    given(decider, OPENED, STARTED).when(start_request(2)).then(request_started(2))


def test_nobody_else_does() -> None:
    command = session.StartRequest("key:2", STARTED, 0)
    given(decider, OPENED).when(command).refused(session.NotThePayer)


def test_nothing_starts_at_its_closing_time() -> None:
    command = session.StartRequest("key:1", STARTED, FAR_FUTURE_MS)
    given(decider, OPENED).when(command).refused(session.SessionClosed)


def test_a_request_id_is_used_once() -> None:
    given(decider, OPENED, STARTED, ENDED).when(start_request(1)).refused(session.RequestAlreadyEnded)


def test_a_single_request_session_takes_one() -> None:
    single = opened(single_request=True)
    given(decider, single, STARTED).when(start_request(2)).refused(session.SessionClosed)
    given(decider, single, STARTED, ENDED).when(start_request(2)).refused(session.SessionClosed)


def test_a_generation_ends_once() -> None:
    state = given(decider, OPENED, STARTED).when(end(ENDED)).then(ENDED)
    assert state.running == {}
    given(decider, OPENED, STARTED, ENDED).when(end(ENDED)).nothing()
    given(decider, OPENED).when(end(ENDED)).nothing()


def test_only_the_entry_node_reports_the_end() -> None:
    given(decider, OPENED, STARTED).when(end(ENDED, by=ulid(1))).then(ENDED)
    given(decider, OPENED, STARTED).when(end(ENDED, by=ulid(2))).refused(session.NotTheEntry)


@pytest.mark.parametrize(
    "ended",
    [
        generation_ended(1, finish_reason="error"),
        generation_ended(1, error_code="boom"),
        generation_ended(1, completion_tokens=17),
        generation_ended(1, completion_tokens=-1),
        generation_ended(1, prompt_tokens=-1),
    ],
)
def test_a_report_that_contradicts_itself_is_refused(ended: session.GenerationEnded) -> None:
    given(decider, OPENED, STARTED).when(end(ended)).refused(session.EndingInconsistent)


RESUMED = moves.RequestResumed(ulid(1), 2, ulid(3), 4)
MOVED = moves.KvMoved(ulid(1), 2, ulid(2), ulid(4), 9, 1000, 7)


def test_a_resumed_request_is_ended_by_its_new_entry() -> None:
    resume = moves.ResumeRequest(RESUMED)
    given(decider, OPENED, STARTED).when(resume).then(RESUMED)
    given(decider, OPENED, STARTED, RESUMED).when(resume).nothing()
    given(decider, OPENED, STARTED, RESUMED).when(end(ENDED, by=ulid(3))).then(ENDED)
    given(decider, OPENED, STARTED, RESUMED).when(end(ENDED, by=ulid(1))).refused(session.NotTheEntry)
    given(decider, OPENED, STARTED, ENDED).when(resume).refused(session.RequestAlreadyEnded)
    too_many = moves.ResumeRequest(moves.RequestResumed(ulid(1), 2, ulid(3), 16))
    given(decider, OPENED, STARTED).when(too_many).refused(session.EndingInconsistent)


def test_a_move_is_told_once_by_who_had_the_kv_also_after_the_end() -> None:
    move = moves.MoveKv(MOVED, ulid(2))
    given(decider, OPENED, STARTED).when(move).then(MOVED)
    given(decider, OPENED, STARTED, MOVED).when(move).nothing()
    given(decider, OPENED, STARTED, ENDED).when(move).then(MOVED)
    given(decider, OPENED).when(move).nothing()
    given(decider, OPENED, STARTED).when(moves.MoveKv(MOVED, ulid(4))).refused(moves.NotTheLeaver)


def test_a_session_settles_when_nothing_runs() -> None:
    given(decider, OPENED, STARTED).when(session.Settle()).refused(session.SessionBusy)
    settled = session.Settled(1, "0", "0")
    state = given(decider, OPENED, STARTED, ENDED).when(session.Settle()).then(settled)
    assert state == session.Closed(OPENED)


def test_expiry_ends_what_still_runs() -> None:
    given(decider, OPENED, STARTED).when(session.Expire(FAR_FUTURE_MS - 1)).nothing()
    cut_off = session.GenerationEnded(ulid(1), "error", 5, 0, None, "session_expired")
    given(decider, OPENED, STARTED).when(session.Expire(FAR_FUTURE_MS)).then(
        cut_off, session.Expired(FAR_FUTURE_MS)
    )


@pytest.mark.parametrize("closing", [session.Settled(0, "0", "0"), session.Expired(1)])
def test_a_closed_session_stays_closed(closing: session.SessionEvent) -> None:
    for harmless in (session.Settle(), session.Expire(1), end(ENDED), moves.MoveKv(MOVED, ulid(2))):
        given(decider, OPENED, closing).when(harmless).nothing()
    given(decider, OPENED, closing).when(start_request(1)).refused(session.SessionClosed)
