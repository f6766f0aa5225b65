"""What may be inlined raw by a workflow's templates, and what is refused before it travels."""

import json

import pytest

from services.keeper import inputs
from services.keeper.backend import BackendRefused
from services.stack.node import ROOT

FILES = sorted((ROOT / "services" / "keeper" / "workflows").glob("*.json"))


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_what_our_workflows_say_they_take_is_taken(path) -> None:  # type: ignore[no-untyped-def]
    (trigger,) = (node for node in json.loads(path.read_text())["nodes"] if node["type"] == "trigger")
    inputs.check(json.loads(trigger["data"]["config"]["webhookMockRequest"]))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("session_id", 's1","event":"stream_stopped'),
        ("session_id", "s1\\"),
        ("session_id", "s1\n"),
        ("session_id", "{{@open:Open.transactionHash}}"),
        ("session_id", ""),
        ("coalition", "0x12"),
        ("coalition", "0x" + "g" * 40),
        ("salt", "0x" + "0" * 63),
        ("init_code", "0x123"),
        ("claim_id", "-1"),
        ("claim_id", "01"),
        ("claim_id", "1e3"),
        ("network", "mainnet"),
        ("mode", "Open"),
        ("callback_url", "http://example.org/hook"),
        ("callback_url", "https://"),
        ("callback_url", "file:///etc/passwd"),
        ("callback_secret", "a b"),
        ("votes", "0x12"),
        ("votes", '["0x12"'),
        ("votes", '{"a":"b"}'),
        ("votes", '["a\\"b"]'),
        ("votes", '["a\\\\b"]'),
        ("votes", '[["{{@x:X.y}}"]]'),
        ("votes", "[1.5]"),
        ("bonds", '[{"a\\"b":"1"}]'),
        ("terms", "[" * 100_000),
        ("anything_else", 'says "so"'),
        ("Upper", "x"),
        ('x","y', "x"),
    ],
)
def test_what_could_rewrite_a_request_is_refused_and_never_quoted(name: str, value: str) -> None:
    with pytest.raises(BackendRefused) as refused:
        inputs.check({name: value})
    assert (refused.value.code, refused.value.status) == ("invalid_input", 400)
    assert len(value) < 4 or value not in str(refused.value)


@pytest.mark.parametrize("value", [1, None, ["a"], {"a": "b"}, True])
def test_an_input_is_a_text(value: object) -> None:
    with pytest.raises(BackendRefused, match="is not a text"):
        inputs.check({"session_id": value})


def test_an_input_as_a_whole_has_a_limit() -> None:
    inputs.check({"init_code": "0x" + "00" * 100_000})
    with pytest.raises(BackendRefused, match="bytes"):
        inputs.check({"init_code": "0x" + "00" * 200_000})


def test_lists_of_plain_values_are_taken() -> None:
    inputs.check(
        {"bonds": '[{"operator":"0x12","micro":"5"}]', "votes": "[]", "seats": '[["0x1",2,true,null]]'}
    )
    inputs.check(
        {"callback_url": "http://127.0.0.1:8080/webhooks/keeperhub", "note": "plain words, all of them"}
    )
