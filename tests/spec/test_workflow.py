"""A run is requested once, accepted once and ended once, and never again after that."""

from typing import Any

import pytest

from events import workflow
from events.ids import run_id_of
from events.workflow import Accept, Accepted, Confirmed, End, Failed, MarkUnconfirmed, Request
from tests.aggregates import ulid

ASKED = workflow.Requested("stream-stop", "stream", ulid(1), "2:close", 1, {"network": "31337"})
TAKEN = Accepted("hosted", "exec-1")
SENT = workflow.RunTransaction("close", "0x" + "ab" * 32, 31337)


def after(*commands: Any) -> workflow.WorkflowState:
    state: workflow.WorkflowState = workflow.Absent()
    for command in commands:
        state = workflow.workflow.fold(workflow.decide(command, state), state)
    return state


def test_a_run_goes_its_way() -> None:
    state = after(Request(ASKED), Accept(TAKEN), MarkUnconfirmed((SENT,)), End(Confirmed((SENT,))))
    assert state == workflow.Run(ASKED, TAKEN, Confirmed((SENT,)))


@pytest.mark.parametrize(
    "again", [Request(ASKED), Accept(TAKEN), End(Confirmed((SENT,))), MarkUnconfirmed()], ids=repr
)
def test_what_is_told_twice_changes_nothing(again: workflow.WorkflowCommand) -> None:
    state = after(Request(ASKED), Accept(TAKEN), End(Confirmed((SENT,))))
    assert workflow.decide(again, state) == ()


@pytest.mark.parametrize(
    "other",
    [
        Request(workflow.Requested("stream-stop", "stream", ulid(1), "2:close", 1, {"network": "1"})),
        Accept(Accepted("hosted", "exec-2")),
        End(Failed("start_refused", "", False, ())),
    ],
    ids=repr,
)
def test_nothing_contradicts_what_stands(other: workflow.WorkflowCommand) -> None:
    state = after(Request(ASKED), Accept(TAKEN), End(Confirmed(())))
    with pytest.raises(workflow.RunDiffers):
        workflow.decide(other, state)


def test_a_run_has_to_be_asked_for() -> None:
    with pytest.raises(workflow.RunUnknown):
        workflow.decide(Accept(TAKEN), workflow.Absent())


def test_a_step_of_a_subject_has_one_run_and_every_attempt_its_own() -> None:
    first = run_id_of("stream-stop", ulid(1), "2:close", 1)
    assert first == run_id_of("stream-stop", ulid(1), "2:close", 1)
    others = {
        run_id_of("stream-stop", ulid(1), "2:close", 2),
        run_id_of("stream-stop", ulid(1), "3:close", 1),
        run_id_of("stream-stop", ulid(2), "2:close", 1),
        run_id_of("stream-start", ulid(1), "2:close", 1),
    }
    assert len(others | {first}) == 5
