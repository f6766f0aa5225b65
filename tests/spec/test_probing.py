"""An attestor's probes over virtual time: what it states, and what it takes for its own outage."""

import asyncio
from collections.abc import Callable

import msgspec
import pytest

from events.evidence import Probe, flaw_of
from events.probing import rhythm
from services.verifier.answers import is_answer_of
from services.verifier.probing import Clock, Found, probe
from shard_runtime.probes import ProbeAnswered, ProbeAsked, answer_to
from shard_runtime.signing import ReceiptKey
from tests.aggregates import ulid
from tests.attesting import case

CASE = case()
AT, BEAT = CASE.at_unix_ms, rhythm(CASE.least_probes, CASE.longest_probe_window_s)


def probed(answers: Callable[[int], bool | None], start_ms: int = AT) -> tuple[Probe, ...] | Found:
    """`answers`: what becomes of a probe sent at this moment."""
    now = [start_ms]

    async def sleep_until(moment_ms: int) -> None:
        now[0] = max(now[0], moment_ms)

    async def ask(_: str, sent_unix_ms: int, within_ms: int) -> bool | None:
        found = answers(sent_unix_ms)
        now[0] += within_ms if found is False else 5
        return found

    return asyncio.run(probe(CASE, Clock(lambda: now[0], sleep_until), ask))


def test_a_silence_of_the_service_level_is_stated() -> None:
    found = probed(lambda _: False)
    assert isinstance(found, tuple)
    assert len(found) == BEAT.count
    assert flaw_of(CASE, found) is None


def test_it_waits_for_the_report_and_gives_up_when_the_window_is_too_short() -> None:
    found = probed(lambda _: False, AT - 60_000)
    assert isinstance(found, tuple)
    assert found[0].sent_unix_ms == AT
    assert probed(lambda _: False, AT + BEAT.spacing_ms + 1) == "unknown"


@pytest.mark.parametrize("after_ms", [0, 1, BEAT.spacing_ms, BEAT.sla_ms])
def test_one_answer_is_enough(after_ms: int) -> None:
    assert probed(lambda sent: sent >= AT + after_ms) == "answered"


def test_a_gateway_that_is_away_for_a_moment_is_asked_again() -> None:
    def answers(sent: int) -> bool | None:
        return None if (sent - AT) % BEAT.spacing_ms < BEAT.interval_ms // 2 else False

    found = probed(answers)
    assert isinstance(found, tuple)
    assert flaw_of(CASE, found) is None


def test_a_gateway_that_is_away_for_longer_shows_nothing() -> None:
    gone = range(AT + BEAT.spacing_ms, AT + BEAT.spacing_ms + 2 * BEAT.gap_ms)
    assert probed(lambda sent: None if sent in gone else False) == "unknown"
    assert probed(lambda _: None) == "unknown"


def test_an_answer_is_the_nodes_own_for_this_challenge_and_nothing_else() -> None:
    key, node = ReceiptKey(bytes(31) + b"\x05"), ulid(1)
    asked = ProbeAsked("ab" * 32, "0x" + "0A" * 20, 7)
    answer = answer_to(msgspec.json.encode(asked), node, key)
    assert answer is not None
    signature = msgspec.json.decode(answer, type=ProbeAnswered).signature
    assert is_answer_of(key.address, node, asked, signature)
    assert not is_answer_of(key.address, ulid(2), asked, signature)
    assert not is_answer_of(key.address, node, ProbeAsked("ac" * 32, "0x" + "0A" * 20, 7), signature)
    assert not is_answer_of("0x" + "11" * 20, node, asked, signature)
    for broken in (None, "", "zz", "00" * 65, signature[:-2], signature[:-2] + "09"):
        assert not is_answer_of(key.address, node, asked, broken)
    for garbage in (b"", b"{}", b"\xff", b'{"nonce":"a","attestor":"b","sent_unix_ms":1}'):
        assert answer_to(garbage, node, key) is None
