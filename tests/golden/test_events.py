"""Released events stay readable for ever: a committed corpus, its decoded dump, and the schemas.

A new event type or version is added with `python -m tests.golden.test_events`; what is already there is never
rewritten by it.
"""

import json
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from events.envelope import EVENT_CLASSES, UPCASTERS, decode_commit, encode_commit, json_schema
from events.merkle import Tree, leaf_bytes, leaf_hash
from services.event_docs import TARGET, render
from tests.aggregates import cause, ulid
from tests.golden.samples import SAMPLES

HERE = Path(__file__).parent
CORPUS, DECODED, SCHEMAS = HERE / "events.ndjson", HERE / "events.decoded.json", HERE / "schemas.json"


def _lines() -> list[dict[str, Any]]:
    return [json.loads(line) for line in CORPUS.read_text().splitlines()]


def _decoded(line: dict[str, Any]) -> list[dict[str, Any]]:
    found = decode_commit(line["subject"], line["sequence"], line["headers"], line["payload"].encode())
    return [_plain(item) for item in found]


def _plain(value: Any) -> Any:
    return json.loads(msgspec.json.encode(value))


def test_every_type_and_version_is_in_the_corpus() -> None:
    held = {item["type"] for line in _lines() for item in json.loads(line["payload"])}
    assert held >= set(EVENT_CLASSES) | set(UPCASTERS)
    assert set(SAMPLES) == set(EVENT_CLASSES)


def test_the_corpus_decodes_as_it_did_when_it_was_released() -> None:
    before = json.loads(DECODED.read_text())
    assert [_decoded(line) for line in _lines()] == before["commits"]


def test_the_corpus_hashes_as_it_did_when_it_was_released() -> None:
    tree = Tree()
    for line in _lines():
        tree.append(
            leaf_hash(
                leaf_bytes(line["subject"], line["sequence"], line["headers"], line["payload"].encode())
            )
        )
    assert tree.root().hex() == json.loads(DECODED.read_text())["root"]


def test_what_is_written_today_is_what_was_released() -> None:
    """Byte for byte: two writers of different releases make the same commit of the same events."""
    released = {line["payload"]: line["subject"] for line in _lines()}
    for commit in _commits():
        assert released[commit.payload.decode()] == commit.subject


def _definition(schema: dict[str, Any], name: str) -> Any:
    for item in schema["$defs"].values():
        if item.get("properties", {}).get("type", {}).get("enum") == [name]:
            return item
    return None


def test_a_released_schema_never_changes() -> None:
    released = json.loads(SCHEMAS.read_text())
    now = _plain(json_schema())
    for key, definition in released["$defs"].items():
        name = definition["properties"].get("type", {}).get("enum", [None])[0]
        today = _definition(now, name) if name else now["$defs"].get(key)
        if name in UPCASTERS:
            continue
        assert today == definition, f"{name or key} was released; make a new version and an upcaster"
    for name in EVENT_CLASSES:
        assert _definition(released, name) is not None, f"{name} is not in {SCHEMAS.name}"


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_samples_satisfy_the_published_json_schema(name: str) -> None:
    schema = json_schema()
    definition = _definition(schema, name)
    for sample in SAMPLES[name]:
        jsonschema.validate(_plain(sample), {**definition, "$defs": schema["$defs"]})
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(_plain(sample) | {"surprise": 1}, {**definition, "$defs": schema["$defs"]})


def test_the_events_page_is_fresh() -> None:
    assert TARGET.read_text() == render(), "run: python -m services.event_docs"


def _commits() -> list[Any]:
    return [
        encode_commit(name.split(".")[0], ulid(77), 1, (sample,), cause(f"golden {name} {number}"))
        for name in sorted(SAMPLES)
        for number, sample in enumerate(SAMPLES[name])
    ]


def add_missing() -> None:
    """Append commits of types that the corpus lacks; refresh the dump's tail and the schemas' new entries."""
    lines = _lines() if CORPUS.exists() else []
    held = {line["payload"] for line in lines}
    for commit in _commits():
        if commit.payload.decode() not in held:
            headers = {
                "Nats-Msg-Id": commit.commit_id,
                "Nats-Expected-Last-Subject-Sequence": "0",
                "Content-Type": "application/cloudevents-batch+json",
                "cp-writer": "U" + "A" * 55,
                "cp-sig": "00" * 64,
            }
            lines.append(
                {
                    "subject": commit.subject,
                    "sequence": len(lines) + 1,
                    "headers": headers,
                    "payload": commit.payload.decode(),
                }
            )
    CORPUS.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    tree = Tree(
        [
            leaf_hash(
                leaf_bytes(line["subject"], line["sequence"], line["headers"], line["payload"].encode())
            )
            for line in lines
        ]
    )
    before = json.loads(DECODED.read_text())["commits"] if DECODED.exists() else []
    dump = {"root": tree.root().hex(), "commits": before + [_decoded(line) for line in lines[len(before) :]]}
    DECODED.write_text(json.dumps(dump, indent=1, ensure_ascii=False) + "\n")
    if not SCHEMAS.exists():
        SCHEMAS.write_text(json.dumps(json_schema(), indent=1, sort_keys=True) + "\n")
        return
    released, now = json.loads(SCHEMAS.read_text()), json_schema()
    released["$defs"] = {**now["$defs"], **released["$defs"]}
    SCHEMAS.write_text(json.dumps(released, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    add_missing()
