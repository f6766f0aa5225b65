"""Values as JavaScript writes them, because templates are filled in as KeeperHub fills them in. Knows no
node.
"""

import json
from typing import Any


def text(value: Any) -> str:
    """What a value becomes inside a text: strings raw, null nothing, lists and objects JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return compact(value)


def compact(value: Any) -> str:
    """As `JSON.stringify`: no spaces, no escapes that are not needed, whole numbers without a point."""
    return json.dumps(_whole(value), separators=(",", ":"), ensure_ascii=False)


def canonical(value: Any) -> str:
    """As `compact`, with keys sorted: equal values are equal texts."""
    return json.dumps(_whole(value), separators=(",", ":"), ensure_ascii=False, sort_keys=True)


def _whole(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return int(value)
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_whole(item) for item in value]
    return value
