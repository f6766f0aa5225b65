"""What may be given to a workflow: templates inline inputs raw, so an input must not be able to end a text.

Each field is checked by its name; knows no workflow in particular.
"""

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from services.keeper.backend import BackendRefused

ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
BYTES32 = re.compile(r"0x[0-9a-fA-F]{64}")
BYTES = re.compile(r"0x(?:[0-9a-fA-F]{2})*")
WHOLE = re.compile(r"0|[1-9][0-9]{0,77}")
ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_.:-]{0,127}")
WORD = re.compile(r"[a-z][a-z0-9_-]{0,63}")
TOKEN = re.compile(r"[0-9A-Za-z_.~+/=-]{1,4096}")
FORBIDDEN = re.compile(r'["\\\x00-\x1f\x7f]|\{\{|\}\}')
NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")

RULES: dict[str, tuple[re.Pattern[str], str]] = {
    **dict.fromkeys(("coalition", "coalition_factory", "factory", "escrow"), (ADDRESS, "an address")),
    **dict.fromkeys(("salt", "tx_hash"), (BYTES32, "32 bytes in hex")),
    "init_code": (BYTES, "bytes in hex"),
    **dict.fromkeys(("network", "valid_before", "claim_id", "active"), (WHOLE, "a whole number")),
    **dict.fromkeys(("mode", "phase"), (WORD, "a word")),
    "run_key": (ID, "an id"),
    "callback_secret": (TOKEN, "a token"),
}
BY_ENDING: dict[str, tuple[re.Pattern[str], str]] = {
    "_id": (ID, "an id"),
    "_address": (ADDRESS, "an address"),
    "_hash": (BYTES32, "32 bytes in hex"),
    "_micro": (WHOLE, "a whole number"),
    "_wei": (WHOLE, "a whole number"),
}
JSON_TEXTS = frozenset({"bonds", "seats", "consents", "terms", "voucher", "breach", "votes"})
"""Inlined outside of quotes, as JSON; none of their texts may need an escape."""
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
MOST_BYTES = 256 * 1024
MOST_BRACKETS = 5000
"""Nested without end, a text runs the parser off its stack."""


def check(given: Mapping[str, Any]) -> None:
    """Raises BackendRefused `invalid_input`, which names the field and never its value."""
    size = 0
    for name, value in given.items():
        wrong = None if NAME.fullmatch(name) else "has no name in snake_case"
        if wrong is None:
            wrong = _wrong(name, value)
        if wrong is not None:
            raise BackendRefused("invalid_input", f"{name[:64]!r} {wrong}", status=400)
        size += len(value)
    if size > MOST_BYTES:
        raise BackendRefused("invalid_input", f"the input has more than {MOST_BYTES} bytes", status=400)


def _wrong(name: str, value: Any) -> str | None:
    if not isinstance(value, str):
        return "is not a text"
    if name in JSON_TEXTS:
        return _wrong_json(value)
    if FORBIDDEN.search(value):
        return 'holds a ", a \\, a brace pair or a control character, which a template would inline raw'
    if name.endswith("_url"):
        return _wrong_url(value)
    rule = RULES.get(name) or next((BY_ENDING[end] for end in BY_ENDING if name.endswith(end)), None)
    if rule is not None and not rule[0].fullmatch(value):
        return f"is not {rule[1]}"
    return None


def _wrong_json(value: str) -> str | None:
    if value.count("[") + value.count("{") > MOST_BRACKETS:
        return "holds too many lists"
    try:
        found = json.loads(value)
    except ValueError:
        return "is not JSON"
    if not isinstance(found, list):
        return "is not a JSON list"
    return None if _plain(found) else "holds a text that a template could not inline as it is"


def _plain(value: Any) -> bool:
    if isinstance(value, str):
        return not FORBIDDEN.search(value)
    if isinstance(value, list):
        return all(map(_plain, value))
    if isinstance(value, dict):
        return all(NAME.fullmatch(key) and _plain(item) for key, item in value.items())
    return isinstance(value, bool | int) or value is None


def _wrong_url(value: str) -> str | None:
    try:
        parts = urlsplit(value)
        host = parts.hostname
    except ValueError:
        host = None
    if host and (parts.scheme == "https" or (parts.scheme == "http" and host in LOOPBACK)):
        return None
    return "is not an https URL"
