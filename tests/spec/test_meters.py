"""A paid session's meter, from constructed histories."""

from typing import Any

from events import payment, stream
from events.envelope import Recorded, decode_commit, encode_commit
from services.gateway.meters import reading
from tests.aggregates import cause, generation_ended, request_started, ulid
from tests.money import CAP, RATE, closed, opened_paid, ref, shares, started, stopped, terms, verified

T = 1_700_000_000
START = stream.StartRequested(1, terms(), 1, 1, 5)


def told(kind: str, *events: Any) -> list[Recorded]:
    """A history, one event a second."""
    found: list[Recorded] = []
    for number, event in enumerate(events, start=1):
        commit = encode_commit(
            kind, ulid(9), number, (event,), cause(f"{kind} {number}", (T + number) * 1000)
        )
        headers = {"Nats-Msg-Id": commit.commit_id}
        found.extend(decode_commit(commit.subject, number, headers, commit.payload))
    return found


ASKED = told(
    "session", verified(), payment.PaymentSettled(str(CAP), ref(1)), opened_paid(), request_started(1)
)


def at(second: int, *facts: Any, asked: list[Recorded] = ASKED) -> dict[str, Any]:
    return reading(asked, told("stream", START, *facts), T + second, (T + second) * 1000)


def test_it_runs_with_the_stream_and_stands_when_it_stops() -> None:
    assert at(5)["status"] == "stopped"
    running = at(17, started(7))
    assert (running["status"], running["active"], running["billed_seconds"]) == ("flowing", 1, 10)
    assert running["streamed_wei"] == str(10 * RATE)
    assert running["left_wei"] == str(CAP - 10 * RATE)
    assert running["seconds_left"] == 7 + 30_000 - 17
    halted = at(99, started(7), stopped(19, 12))
    assert (halted["status"], halted["billed_seconds"], halted["seconds_left"]) == ("stopped", 12, None)
    assert halted["streamed_wei"] == str(12 * RATE)


def test_seconds_of_service_are_those_with_a_request() -> None:
    assert at(14, started(7))["serving_seconds"] == 10.0
    ended = [*ASKED, *told("session", *[generation_ended(1)] * 5)[4:]]
    shown = at(99, started(7), stopped(19, 12), asked=ended)
    assert (shown["serving_seconds"], shown["overbilled_seconds"]) == (1.0, 11.0)


def test_what_is_shown_adds_up_to_the_cap() -> None:
    done = at(99, started(7), closed(19, 12))
    assert (done["status"], done["left_wei"]) == ("closed", "0")
    lost = stream.Liquidated(shares(12), "40", ref(19))
    rest = stopped(20, 0, paid=(), closed=True, refund_wei=str(CAP - 12 * RATE - 40))
    over = at(99, started(7), lost, rest)
    assert (over["status"], over["left_wei"], over["penalty_wei"]) == ("closed", "0", "40")


def test_it_never_shows_more_than_the_cap_when_nobody_closes() -> None:
    late = at(7 + CAP // RATE + 500, started(7))
    assert (late["streamed_wei"], late["left_wei"], late["seconds_left"]) == (str(CAP), "0", 0)
