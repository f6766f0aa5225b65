"""A callback is taken for what it proves: every byte by a signature, only its run by a capability."""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest

from services.gateway.callback_proof import SIGNATURE, WINDOW_S, Forged, Malformed, proven
from services.keeper.capability import LIFE_S, capability
from services.keeper.hook_secret import HookSecret, key_id_of
from services.keeper.signature import sign, signed_by
from services.stack.node import ROOT
from tests.aggregates import ulid

KEY, BEFORE, OTHER = b"n" * 64, b"p" * 64, b"x" * 64
SECRET = HookSecret(KEY, BEFORE)
NOW = 1_767_225_600
PATH = "/webhooks/keeperhub"
TOLD = {"event": "stream_started", "run_key": ulid(1), "session_id": ulid(9), "tx_hash": "0x" + "ab" * 32}
BODY = json.dumps(TOLD).encode()
PARTS: dict[str, Any] = {
    "method": "POST",
    "path": PATH,
    "caller": "runner",
    "delivery": "d-0001",
    "execution": "exec-0001",
    "timestamp_unix_s": NOW,
    "body": BODY,
}


def headers(*keys: bytes, changed: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
    """Of a request signed by all of `keys`; `changed` after it was signed."""
    signed = ",".join(f"v1={sign(key, **PARTS)}" for key in keys)
    made = {
        "timestamp": str(NOW),
        "delivery": PARTS["delivery"],
        "execution": PARTS["execution"],
        "caller": PARTS["caller"],
        "key-id": key_id_of(keys[0]),
        "signature": signed,
    }
    return {f"x-keeperhub-{name}": value for name, value in {**made, **changed}.items()}


def why(sent: dict[str, str], body: bytes = BODY, *, secret: HookSecret = SECRET, **more: Any) -> str:
    with pytest.raises(Forged) as forged:
        proven(more.get("method", "POST"), more.get("path", PATH), sent, body, secret, more.get("now", NOW))
    return forged.value.reason


def bearer(text: str) -> dict[str, str]:
    return {"authorization": f"Bearer {text}"}


def test_the_vector() -> None:
    body = b'{"event":"stream_started","run_key":"r1","session_id":"s1","tx_hash":"0xab"}'
    parts = {**PARTS, "timestamp_unix_s": 1_767_225_600, "body": body}
    vector = "38f56372c557ec323dea71ec684a3b9d2846d5eb25a705895245c2809613a262"
    assert sign(b"cp-test-secret", **parts) == vector
    assert signed_by((OTHER, b"cp-test-secret"), f"v1={'0' * 64},v1={vector}", **parts) == b"cp-test-secret"
    assert signed_by((b"cp-test-secret",), f"v2={vector}", **parts) is None
    assert signed_by((b"cp-test-secret",), vector, **parts) is None


def test_a_sender_that_follows_the_docs_signs_right() -> None:
    page = (ROOT / "docs" / "webhooks.md").read_text()
    scope: dict[str, Any] = {}
    exec(page.partition("```python\n")[2].partition("```")[0], scope)
    made = scope["signature"](KEY, PATH, "runner", "d-0001", "exec-0001", NOW, BODY)
    assert made == headers(KEY)["x-keeperhub-signature"]


def test_a_signature_vouches_for_all_of_it() -> None:
    callback = proven("POST", PATH, headers(KEY), BODY, SECRET, NOW)
    assert (callback.proof, callback.delivery, callback.key_id) == (SIGNATURE, "d-0001", key_id_of(KEY))
    assert (callback.run_key, callback.event, callback.allowed) == (ulid(1), "stream_started", None)
    assert callback.transaction_hash == TOLD["tx_hash"]


@pytest.mark.parametrize(
    "changed",
    [
        {"timestamp": str(NOW + 1)},
        {"delivery": "d-0002"},
        {"execution": "exec-0002"},
        {"caller": "somebody"},
        {"signature": "v1=" + "0" * 64},
        {"signature": ""},
    ],
)
def test_no_part_of_it_can_be_changed(changed: dict[str, str]) -> None:
    assert why(headers(KEY, changed=changed)) == "bad_signature"


def test_nor_its_body_its_path_or_its_method() -> None:
    assert why(headers(KEY), BODY + b" ") == "bad_signature"
    assert why(headers(KEY), path="/webhooks/another") == "bad_signature"
    assert why(headers(KEY), method="PUT") == "bad_signature"


def test_its_time_is_close_to_ours_on_both_sides() -> None:
    for now in (NOW - WINDOW_S, NOW + WINDOW_S):
        assert proven("POST", PATH, headers(KEY), BODY, SECRET, now).delivery == "d-0001"
    for now in (NOW - WINDOW_S - 1, NOW + WINDOW_S + 1):
        assert why(headers(KEY), now=now) == "stale"


def test_two_keys_are_known_while_they_rotate() -> None:
    by_old = proven("POST", PATH, headers(BEFORE), BODY, SECRET, NOW)
    assert by_old.key_id == key_id_of(BEFORE)
    assert why(headers(BEFORE), secret=HookSecret(KEY)) == "unknown_key"
    assert why(headers(OTHER)) == "unknown_key"
    ahead = proven("POST", PATH, headers(OTHER, BEFORE), BODY, HookSecret(BEFORE), NOW)
    assert ahead.key_id == key_id_of(BEFORE), "a sender that is ahead signs with both"
    assert why(headers(OTHER, changed={"key-id": key_id_of(KEY)})) == "bad_signature"


def test_a_signature_that_is_wrong_is_not_saved_by_a_capability() -> None:
    good = bearer(capability(KEY, ulid(1), "stream-start", NOW * 1000))
    assert why({**headers(OTHER), **good}) == "unknown_key"


def test_a_capability_says_who_calls_and_what_it_may_tell() -> None:
    sent = bearer(capability(KEY, ulid(1), "stream-start", NOW * 1000))
    callback = proven("POST", PATH, sent, BODY, SECRET, NOW)
    assert (callback.run_key, callback.key_id, callback.allowed) == (ulid(1), None, ("stream_started",))
    again = proven("POST", PATH, sent, BODY, SECRET, NOW)
    assert (again.proof, again.delivery) == (callback.proof, callback.delivery)
    other_body = proven("POST", PATH, sent, BODY.replace(b"ab", b"cd"), SECRET, NOW)
    assert other_body.proof == callback.proof
    assert other_body.delivery != callback.delivery
    by_old = bearer(capability(BEFORE, ulid(1), "stream-start", NOW * 1000))
    assert proven("POST", PATH, by_old, BODY, SECRET, NOW).run_key == ulid(1)


def test_a_capability_is_for_one_run_and_a_while() -> None:
    made = capability(KEY, ulid(1), "stream-start", NOW * 1000)
    assert why(bearer(made), now=NOW + LIFE_S) == "expired"
    assert why(bearer(made), BODY.replace(ulid(1).encode(), ulid(2).encode())) == "other_run"
    assert why(bearer(capability(OTHER, ulid(1), "stream-start", NOW * 1000))) == "bad_capability"
    assert why(bearer(made[:-9] + "AAAAAAAAA")) == "bad_capability"


@pytest.mark.parametrize("sent", [{}, {"authorization": "Basic eA=="}, {"authorization": "Bearer "}])
def test_who_proves_nothing_is_nobody(sent: dict[str, str]) -> None:
    assert why(sent) == "no_proof"


def test_a_header_that_is_not_ascii_is_a_forgery_and_no_mistake_of_ours() -> None:
    assert why(headers(KEY, changed={"signature": "v1=\u00e9"})) == "not_ascii"
    assert why(bearer("cpcb1.\u00e9.\u00e9")) == "not_ascii"


@pytest.mark.parametrize(
    "changed",
    [{"timestamp": "-5"}, {"timestamp": "1e9"}, {"timestamp": ""}, {"delivery": ""}, {"caller": "a b"}],
)
def test_a_header_that_is_not_of_its_form_is_named(changed: dict[str, str]) -> None:
    with pytest.raises(Malformed, match=f"(?i)x-keeperhub-{next(iter(changed))}"):
        proven("POST", PATH, headers(KEY, changed=changed), BODY, SECRET, NOW)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b'{"event":"stream_started"}',
        b'{"event":1,"run_key":"r"}',
        b'{"event":"","run_key":"r"}',
        b'{"event":"e","run_key":"a b"}',
        b'{"event":"e\\u0000","run_key":"r"}',
    ],
)
def test_a_body_that_says_nothing_is_malformed(body: bytes) -> None:
    signed = {**PARTS, "body": body}
    sent = headers(KEY, changed={"signature": f"v1={sign(KEY, **signed)}"})
    with pytest.raises(Malformed):
        proven("POST", PATH, sent, body, SECRET, NOW)
