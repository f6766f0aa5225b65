"""A run's capability names that run, what it may tell and until when; nothing in it can be changed."""

import base64
import json

import pytest

from services.keeper.capability import LIFE_S, CapabilityInvalid, capability, read
from tests.aggregates import ulid

KEY, OTHER = b"k" * 64, b"o" * 64
ASKED_MS = 1_767_225_600_000
NOW = ASKED_MS // 1000
TEXT = capability(KEY, ulid(1), "stream-start", ASKED_MS)


def test_it_says_what_the_run_may_tell() -> None:
    found = read((KEY,), TEXT, NOW)
    assert (found.run_key, found.workflow, found.exp) == (ulid(1), "stream-start", NOW + LIFE_S)
    assert found.events == ("stream_started",)
    assert read((KEY,), capability(KEY, ulid(2), "propose", ASKED_MS), NOW).events == (
        "coalition_proposed",
        "run_failed",
    )


def test_a_run_always_gets_the_same_and_every_run_its_own() -> None:
    assert capability(KEY, ulid(1), "stream-start", ASKED_MS) == TEXT
    nonces = {read((KEY,), capability(KEY, ulid(n), "stream-start", ASKED_MS), NOW).nonce for n in (1, 2, 3)}
    assert len(nonces) == 3


def test_it_ends_and_the_key_before_is_taken_while_keys_rotate() -> None:
    assert read((OTHER, KEY), TEXT, NOW + LIFE_S - 1).run_key == ulid(1)
    for secrets, now in (((KEY,), NOW + LIFE_S), ((OTHER,), NOW), ((), NOW)):
        with pytest.raises(CapabilityInvalid):
            read(secrets, TEXT, now)


def test_no_character_can_be_changed() -> None:
    for place in range(len(TEXT)):
        other = "A" if TEXT[place] != "A" else "B"
        changed = TEXT[:place] + other + TEXT[place + 1 :]
        try:
            assert read((KEY,), changed, NOW) == read((KEY,), TEXT, NOW)
            assert place == len(TEXT) - 1  # The last character carries bits that no byte has.
        except CapabilityInvalid:
            continue


@pytest.mark.parametrize("text", ["", "cpcb1..", "cpcb1.e30.", "cpcb2.a.b", "ä.ö.ü", "cpcb1.%.%", "a.b.c.d"])
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(CapabilityInvalid):
        read((KEY,), text, NOW)


def test_claims_signed_for_another_purpose_are_refused() -> None:
    claims = base64.urlsafe_b64encode(json.dumps({"run_key": ulid(1)}).encode()).decode().rstrip("=")
    with pytest.raises(CapabilityInvalid):
        read((KEY,), f"cpcb1.{claims}.{TEXT.rpartition('.')[2]}", NOW)
