"""Masks secrets in what logs show of a node, by the names of its fields. Knows no node."""

import json
import re
from typing import Any

SECRET = re.compile(
    r"secret|password|credential|authorization|private_?key|access_?token|api_?key|^token$|^key$", re.I
)
MASK = "[redacted]"


def masked(value: Any) -> Any:
    """Also inside of a text that is a JSON object, such as `httpHeaders`."""
    if isinstance(value, dict):
        return {
            key: MASK if SECRET.search(str(key)) and item else masked(item) for key, item in value.items()
        }
    if isinstance(value, list):
        return [masked(item) for item in value]
    if isinstance(value, str) and value[:1] == "{":
        try:
            found = json.loads(value)
        except ValueError:
            return value
        hidden = masked(found)
        return value if hidden == found else json.dumps(hidden)
    return value
