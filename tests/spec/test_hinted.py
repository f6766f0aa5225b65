"""What a callback was worth is known once its run has ended, by what the chain knows of that run."""

import pytest

from events import workflow
from events.workflow import Accepted, Confirmed, Failed, Requested, RunTransaction
from services.keeper.hinted import judged
from services.keeper.inbox import Hint
from tests.aggregates import ulid

OURS, OTHER = "0x" + "ab" * 32, "0x" + "cd" * 32
SENT = (RunTransaction("open", OURS, 31337),)
CONFIRMED, FAILED = Confirmed(SENT), Failed("reverted", "", True, SENT)
REFUSED = Failed("nothing_left", "", True, ())
ENDED_MS = 1_000


def hint(transaction: str | None, event: str = "stream_started", at_ms: int = ENDED_MS - 1) -> Hint:
    return Hint(1, "signature", "d-1", ulid(1), event, transaction, at_ms)


def run(ended: Confirmed | Failed | None) -> workflow.Run:
    requested = Requested("stream-start", "stream", ulid(1), "1:open-1", 1, {})
    return workflow.Run(requested, Accepted("embedded", "exec_1"), ended)


@pytest.mark.parametrize(
    ("told", "ended", "outcome"),
    [
        (hint(OURS), CONFIRMED, "applied"),
        (hint(OURS.upper().replace("X", "x")), CONFIRMED, "applied"),
        (hint(OURS, at_ms=ENDED_MS + 1), CONFIRMED, "stale"),
        (hint(OTHER), CONFIRMED, "mismatch"),
        (hint(None), CONFIRMED, "mismatch"),
        (hint(None, "run_failed"), CONFIRMED, "mismatch"),
        (hint(OURS), FAILED, "applied"),
        (hint(OURS), REFUSED, "mismatch"),
        (hint(None, "run_failed"), REFUSED, "applied"),
        (hint(OURS, "run_failed"), FAILED, "applied"),
        (hint(OTHER, "run_failed"), FAILED, "mismatch"),
        (hint(OURS), None, None),
    ],
)
def test_a_callback_is_held_against_the_end_of_its_run(
    told: Hint, ended: Confirmed | Failed | None, outcome: str | None
) -> None:
    assert judged(told, run(ended), ENDED_MS) == outcome


def test_nobody_asked_for_that_run() -> None:
    assert judged(hint(OURS), workflow.Absent(), 0) == "unknown_run"
