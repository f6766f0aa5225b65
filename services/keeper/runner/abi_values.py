"""Arguments as a workflow writes them (JSON) and answers as it reads them, by a contract's ABI. Knows no
chain.

Whole numbers come out as texts, because JavaScript's numbers can't hold them; a tuple or several answers as
an object when the ABI names them all, else as a list.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eth_abi.exceptions import DecodingError, EncodingError
from eth_utils.address import is_address, to_checksum_address

from services.chain import abi
from services.chain.artifacts import written_type
from services.chain.rpc import Log

Item = Mapping[str, Any]


class ArgumentsInvalid(Exception):
    """The ABI, the function or the arguments of a node don't fit together."""


@dataclass(frozen=True)
class Function:
    """One function of an ABI."""

    inputs: tuple[Item, ...]
    outputs: tuple[Item, ...]
    signature: str

    def calldata(self, written: str) -> bytes:
        """From `functionArgs`, a JSON list in the order of the inputs. Raises ArgumentsInvalid."""
        given = _given(written, "functionArgs")
        while len(given) > len(self.inputs) and given[-1] == "":
            given.pop()
        given = _folded(given, self.inputs)
        if len(given) != len(self.inputs):
            raise ArgumentsInvalid(f"{self.signature} takes {len(self.inputs)} arguments, not {len(given)}")
        values = [_value(item, value) for item, value in zip(self.inputs, given, strict=True)]
        try:
            return abi.call(self.signature, *values)
        except (EncodingError, OverflowError, TypeError) as wrong:
            raise ArgumentsInvalid(f"{self.signature}: {wrong}") from wrong

    def result(self, answer: bytes) -> Any:
        """Raises ArgumentsInvalid for an answer of another shape: no such contract there."""
        if not self.outputs:
            return None
        try:
            values = abi.decode([written_type(item) for item in self.outputs], answer)
        except DecodingError as wrong:
            raise ArgumentsInvalid(f"{self.signature} answered something else: {wrong}") from wrong
        shown = [_shown(item, value) for item, value in zip(self.outputs, values, strict=True)]
        return shown[0] if len(shown) == 1 else _named(self.outputs, shown)


@dataclass(frozen=True)
class Event:
    """One event of an ABI."""

    inputs: tuple[Item, ...]
    signature: str

    def topics(self, written: str) -> list[bytes | None]:
        """From `eventArgs`, a JSON list: filters of the indexed inputs in order, "" matches anything."""
        indexed = [item for item in self.inputs if item["indexed"]]
        given = _given(written, "eventArgs")
        if len(given) > len(indexed):
            raise ArgumentsInvalid(f"{self.signature} has {len(indexed)} indexed inputs, not {len(given)}")
        found: list[bytes | None] = [abi.topic(self.signature)]
        for item, value in zip(indexed, given, strict=False):
            if value in ("", None):
                found.append(None)
                continue
            if not _is_word(item):
                raise ArgumentsInvalid(f"{item['name']} is only there as its hash and can't be a filter")
            found.append(abi.encode([written_type(item)], _value(item, value)))
        while found[-1] is None:
            found.pop()
        return found

    def args(self, log: Log) -> dict[str, Any]:
        """By name, or by position where the ABI gives none. Raises ArgumentsInvalid."""
        indexed = [item for item in self.inputs if item["indexed"]]
        plain = [item for item in self.inputs if not item["indexed"]]
        try:
            values = iter(abi.decode([written_type(item) for item in plain], log.data))
            topics = iter(zip(indexed, log.topics[1:], strict=True))
            return {
                item.get("name") or str(index): _topic(*next(topics))
                if item["indexed"]
                else _shown(item, next(values))
                for index, item in enumerate(self.inputs)
            }
        except (DecodingError, ValueError) as wrong:
            raise ArgumentsInvalid(f"{self.signature} is another event of the same name: {wrong}") from wrong


def function_of(written_abi: str, name: str) -> Function:
    """By its name, or by its whole signature when several have it. Raises ArgumentsInvalid."""
    found = {}
    for entry in _entries(written_abi, "function"):
        signature = _signature(entry)
        if name in (entry["name"], signature):
            found[signature] = Function(tuple(entry["inputs"]), tuple(entry.get("outputs", ())), signature)
    if len(found) != 1:
        raise ArgumentsInvalid(f"the ABI has {len(found)} functions {name}")
    return next(iter(found.values()))


def event_of(written_abi: str, name: str) -> Event:
    """Raises ArgumentsInvalid."""
    found = [entry for entry in _entries(written_abi, "event") if name in (entry["name"], _signature(entry))]
    if len(found) != 1:
        raise ArgumentsInvalid(f"the ABI has {len(found)} events {name}")
    return Event(tuple(found[0]["inputs"]), _signature(found[0]))


def address(value: Any) -> str:
    """Checksummed. Raises ArgumentsInvalid."""
    if not isinstance(value, str) or not is_address(value):
        raise ArgumentsInvalid(f"not an address: {value}")
    return to_checksum_address(value)


def _entries(written_abi: str, kind: str) -> list[dict[str, Any]]:
    try:
        found = json.loads(written_abi)
        return [entry for entry in found if entry.get("type", "function") == kind and _signature(entry)]
    except (ValueError, KeyError, TypeError, AttributeError) as wrong:
        raise ArgumentsInvalid(f"abi is not a JSON ABI: {wrong}") from wrong


def _signature(entry: Item) -> str:
    return f"{entry['name']}({','.join(written_type(item) for item in entry['inputs'])})"


def _read(written: str, name: str) -> Any:
    try:
        return json.loads(written)
    except ValueError as wrong:
        raise ArgumentsInvalid(f"{name} is not JSON: {wrong}") from wrong


def _given(written: str, name: str) -> list[Any]:
    found = _read(written, name) if written else []
    if not isinstance(found, list):
        raise ArgumentsInvalid(f"{name} is not a list")
    return found


def _folded(given: list[Any], inputs: Sequence[Item]) -> list[Any]:
    """A tuple's parts may be written flat, when every argument is."""
    if len(given) == len(inputs) or len(given) != sum(map(_leaves, inputs)):
        return given
    rest = iter(given)
    return [_taken(item, rest) for item in inputs]


def _leaves(item: Item) -> int:
    return sum(map(_leaves, item["components"])) if item["type"] == "tuple" else 1


def _taken(item: Item, rest: Any) -> Any:
    return [_taken(part, rest) for part in item["components"]] if item["type"] == "tuple" else next(rest)


def _value(item: Item, value: Any) -> Any:
    """As the encoder takes it. Raises ArgumentsInvalid."""
    kind = str(item["type"])
    if kind.endswith("]"):
        if isinstance(value, str):
            value = _given(value, str(item.get("name") or kind))
        if not isinstance(value, list):
            raise ArgumentsInvalid(f"{item.get('name')}: a list, not {value}")
        inner = {**item, "type": kind[: kind.rindex("[")]}
        return [_value(inner, part) for part in value]
    if kind == "tuple":
        if isinstance(value, str):
            value = _read(value, str(item.get("name")))
        parts = item["components"]
        if isinstance(value, dict) and set(value) >= {part["name"] for part in parts}:
            value = [value[part["name"]] for part in parts]
        if not isinstance(value, list) or len(value) != len(parts):
            raise ArgumentsInvalid(f"{item.get('name')}: a tuple of {len(parts)}, not {value}")
        return tuple(_value(part, one) for part, one in zip(parts, value, strict=True))
    try:
        return _simple(kind, value)
    except (ValueError, TypeError, KeyError, AttributeError) as wrong:
        raise ArgumentsInvalid(f"{item.get('name') or kind}: {value} is no {kind}") from wrong


def _simple(kind: str, value: Any) -> Any:
    if kind == "address":
        return address(value)
    if kind.startswith(("uint", "int")):
        if isinstance(value, str):
            return int(value, 16) if value.lower().startswith("0x") else int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError
        return value
    if kind == "bool":
        return {True: True, False: False, "true": True, "false": False}[value]
    if kind.startswith("bytes"):
        if not value.startswith("0x"):
            raise ValueError
        return bytes.fromhex(value[2:])
    return value if isinstance(value, str) else json.dumps(value)


def _shown(item: Item, value: Any) -> Any:
    kind = str(item["type"])
    if kind.endswith("]"):
        inner = {**item, "type": kind[: kind.rindex("[")]}
        return [_shown(inner, part) for part in value]
    if kind == "tuple":
        parts = item["components"]
        return _named(parts, [_shown(part, one) for part, one in zip(parts, value, strict=True)])
    if kind == "address":
        return to_checksum_address(value)
    if isinstance(value, bytes):
        return "0x" + value.hex()
    return value if isinstance(value, bool | str) else str(value)


def _named(items: Sequence[Item], values: list[Any]) -> Any:
    names = [item.get("name") for item in items]
    if all(names) and len(set(names)) == len(names):
        return dict(zip(names, values, strict=True))
    return values


def _topic(item: Item, topic: bytes) -> Any:
    if not _is_word(item):
        return "0x" + topic.hex()
    return _shown(item, abi.decode([written_type(item)], topic)[0])


def _is_word(item: Item) -> bool:
    kind = str(item["type"])
    return kind not in ("string", "bytes", "tuple") and not kind.endswith("]")
