"""Commits: what is written is read back the same; what is broken is named, never skipped."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from events import envelope, pool, session
from events.envelope import (
    Cause,
    EventInvalid,
    MalformedCommit,
    UnknownEventType,
    aggregate_of,
    decode_commit,
    encode_commit,
    signing_bytes,
    subject_of,
)
from events.ids import commit_id, event_id
from tests.aggregates import cause, generation_ended, opened, proposed, request_started, ulid
from tests.golden.samples import SAMPLES

SESSION = ulid(1)

ids = st.integers(0, 2**64).map(ulid)
hashes = st.binary(min_size=32, max_size=32).map(bytes.hex)
counts = st.integers(0, 2**53)
session_events = st.one_of(
    st.builds(
        session.Opened,
        pool_id=ids,
        payer=st.text(),
        price_wei_per_s=st.integers(0, 10**70).map(str),
        single_request=st.booleans(),
        close_by_unix_ms=counts,
    ),
    st.builds(
        session.RequestStarted,
        request_id=ids,
        epoch=counts,
        entry_node_id=ids,
        seed=st.integers(0, 2**64 - 1).map(str),
        prompt_commitment=hashes,
        prompt_tokens=counts,
        max_tokens=counts,
        deadline_unix_ms=counts,
    ),
    st.builds(
        session.GenerationEnded,
        request_id=ids,
        finish_reason=st.sampled_from(["stop", "length", "cancelled", "error"]),
        prompt_tokens=counts,
        completion_tokens=counts,
        output_commitment=st.none() | hashes,
        error_code=st.none() | st.text(),
    ),
)
causes = st.builds(
    Cause,
    command_id=st.text(),
    correlation_id=st.text(),
    causation_id=st.text(),
    at_unix_ms=st.integers(0, 253_402_300_799_999),
)


def read(commit: envelope.Commit, **changes: Any) -> tuple[envelope.Recorded, ...]:
    values: dict[str, Any] = {
        "subject": commit.subject,
        "sequence": 7,
        "headers": {"Nats-Msg-Id": commit.commit_id, "cp-writer": "U"},
        "payload": commit.payload,
    }
    return decode_commit(**(values | changes))


@given(st.lists(session_events, min_size=1, max_size=5), causes, st.integers(1, 10**9))
def test_what_is_written_is_read_back(events: list[Any], why: Cause, version: int) -> None:
    commit = encode_commit("session", SESSION, version, tuple(events), why)
    found = read(commit)
    assert [item.event for item in found] == events
    assert [item.version for item in found] == list(range(version, version + len(events)))
    for index, item in enumerate(found):
        assert (item.sequence, item.index, item.position) == (7, index, 7 * 1024 + index)
        assert (item.kind, item.aggregate_id) == ("session", SESSION)
        assert (item.command_id, item.correlation_id, item.causation_id, item.time_unix_ms) == (
            why.command_id,
            why.correlation_id,
            why.causation_id,
            why.at_unix_ms,
        )
        assert item.commit_id == commit_id(why.command_id)
        assert item.event_id == event_id(item.commit_id, index)


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_every_event_type_travels(name: str) -> None:
    for sample in SAMPLES[name]:
        commit = encode_commit(name.split(".")[0], SESSION, 1, (sample,), cause("x"))
        (item,) = read(commit)
        assert (item.type, item.event) == (name, sample)


@given(st.binary(max_size=200))
def test_garbage_is_malformed(garbage: bytes) -> None:
    with pytest.raises(MalformedCommit):
        decode_commit(subject_of("session", SESSION), 1, {}, garbage)


@pytest.mark.parametrize("place", [b"key:1", b"session.opened.v1", b"correlation"])
def test_bytes_that_are_not_utf_8_are_malformed(place: bytes) -> None:
    payload = encode_commit("session", SESSION, 1, (opened(),), cause("x")).payload
    with pytest.raises(MalformedCommit):
        decode_commit(subject_of("session", SESSION), 1, {}, payload.replace(place, b"\xed\xa0\x80", 1))


def altered(**changes: Any) -> bytes:
    commit = encode_commit("session", SESSION, 1, (opened(),), cause("x"))
    (item,) = json.loads(commit.payload)
    return json.dumps([item | changes]).encode()


@pytest.mark.parametrize(
    "changes",
    [
        {"time": "yesterday"},
        {"time": "2026-01-01T00:00:00"},
        {"subject": f"session/{ulid(2)}"},
        {"subject": f"pool/{SESSION}"},
        {"type": "pool.retired.v1"},
        {"data": {"type": "session.opened.v1"}},
        {"data": {"type": "session.expired.v1", "at_unix_ms": 1}},
        {"data": {**msgspec.to_builtins(opened()), "extra": 1}},
        {"surprise": 1},
        {"cpversion": "1"},
    ],
)
def test_an_altered_commit_is_malformed(changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedCommit):
        decode_commit(subject_of("session", SESSION), 1, {}, altered(**changes))


@pytest.mark.parametrize("name", ["session.opened.v2", "session.vanished.v1"])
def test_an_unknown_type_is_named_and_not_skipped(name: str) -> None:
    with pytest.raises(UnknownEventType, match=name):
        decode_commit(subject_of("session", SESSION), 1, {}, altered(type=name))


@pytest.mark.parametrize("count", [0, 257])
def test_a_commit_holds_1_to_256_events(count: int) -> None:
    with pytest.raises(ValueError, match=r"1\.\.256"):
        encode_commit("session", SESSION, 1, (opened(),) * count, cause("x"))
    event = altered()[1:-1]
    with pytest.raises(MalformedCommit):
        decode_commit(subject_of("session", SESSION), 1, {}, b"[" + b",".join([event] * count) + b"]")


@pytest.mark.parametrize(
    "event",
    [
        opened(pool_id="UPPER"),
        opened(price_wei_per_s="-1"),
        opened(price_wei_per_s="007"),
        opened(close_by_unix_ms="soon"),
        request_started(1, prompt_commitment="ab"),
        generation_ended(1, finish_reason="bored"),
        generation_ended(1, output_commitment=""),
    ],
)
def test_what_could_not_be_read_back_is_never_written(event: Any) -> None:
    with pytest.raises(EventInvalid):
        encode_commit("session", SESSION, 1, (event,), cause("x"))


def test_an_endless_commit_is_never_written() -> None:
    with pytest.raises(EventInvalid, match="bytes"):
        encode_commit("pool", SESSION, 1, (proposed(name="x" * 600_000),), cause("x"))


@pytest.mark.parametrize(
    "bad", ["", "*", ">", "a.b", SESSION.upper(), SESSION + ".x", SESSION[:-1], "8" * 26]
)
def test_an_id_cannot_reach_into_another_subject(bad: str) -> None:
    with pytest.raises(EventInvalid):
        subject_of("session", bad)


@given(st.text(max_size=40))
def test_only_our_subjects_name_an_aggregate(text: str) -> None:
    assert aggregate_of(f"cp.events.session.{SESSION}") == ("session", SESSION)
    for subject in (text, f"cp.events.{text}.{SESSION}x", f"cp.events.session.{SESSION}.{text}"):
        with pytest.raises(MalformedCommit):
            aggregate_of(subject)


parts = st.tuples(st.text(max_size=4), st.text(max_size=4), st.integers(0, 99), st.binary(max_size=4))


@given(parts, parts)
def test_a_signature_is_over_one_commit_only(
    one: tuple[str, str, int, bytes], other: tuple[str, str, int, bytes]
) -> None:
    assert (signing_bytes(*one) == signing_bytes(*other)) == (one == other)


def test_an_old_version_is_upcast_when_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def v0_to_v1(data: dict[str, Any]) -> dict[str, Any]:
        return {"type": "pool.retired.v1", "reason": data["why"]}

    monkeypatch.setitem(envelope.UPCASTERS, "pool.retired.v0", v0_to_v1)
    data = json.dumps({"type": "pool.retired.v0", "why": "done"}).encode()
    assert envelope.decode_event("pool.retired.v0", data) == pool.Retired("done")


def test_every_refusal_has_a_code_of_its_own() -> None:
    found = envelope.rejections()
    assert {"session_busy", "plan_invalid", "node_retired", "event_invalid"} <= set(found)
    for code, refusal in found.items():
        assert refusal.code == code
        assert refusal.remedy
        assert refusal.__doc__
