"""A contract by its compiled ABI: calldata, answers of views, events. Knows no particular contract.

`Contract(artifact("SessionEscrow"), address)`. Names are as in Solidity; of functions with the same name, the
one with as many arguments is taken, or the one whose whole signature is given.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from services.chain import abi
from services.chain.artifacts import Artifact, written_type
from services.chain.rpc import Height, Log, Rpc


class NoSuchFunction(Exception):
    """no_such_function: the compiled contract has no function of this name and number of arguments."""

    code = "no_such_function"


class NotAnswered(Exception):
    """not_answered: no contract stands at the address, or it is another one than was thought."""

    code = "not_answered"
    remedy = "computepool chain verify"


@dataclass(frozen=True)
class Function:
    signature: str
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Event:
    """`indexed` and `plain` are (name, type) of the arguments in topics and in data."""

    name: str
    topic: bytes
    indexed: tuple[tuple[str, str], ...]
    plain: tuple[tuple[str, str], ...]

    def values(self, log: Log) -> dict[str, Any]:
        """Raises DecodingError. An indexed text or list is only there as its hash, so it is left out."""
        found = {
            name: abi.decode((kind,), topic)[0]
            for (name, kind), topic in zip(self.indexed, log.topics[1:], strict=True)
            if _is_word(kind)
        }
        plain = abi.decode([kind for _, kind in self.plain], log.data)
        return found | dict(zip((name for name, _ in self.plain), plain, strict=True))


@dataclass(frozen=True)
class Said:
    """An event with its values by name; `log` says where it stands."""

    name: str
    values: Mapping[str, Any]
    log: Log


@dataclass(frozen=True)
class Contract:
    artifact: Artifact
    address: str

    def calldata(self, name: str, *arguments: object) -> bytes:
        """Raises NoSuchFunction; EncodingError for a value that does not fit."""
        return abi.call(self._function(name, len(arguments)).signature, *arguments)

    async def read(self, rpc: Rpc, name: str, *arguments: object, height: Height = "latest") -> Any:
        """A view's answer: one value, or a tuple of several.

        "pending" sees the next block's time, which a running stream's meter needs. Raises NotAnswered,
        CallReverted, ChainAway.
        """
        function = self._function(name, len(arguments))
        answer = await rpc.call(self.address, abi.call(function.signature, *arguments), height)
        if not answer and function.outputs:
            raise NotAnswered(f"{self.artifact.name}.{name} at {self.address}")
        values = abi.decode(function.outputs, answer)
        return values[0] if len(values) == 1 else values

    def said(self, log: Log) -> Said | None:
        """None: an event that this contract's ABI does not declare, or one of another address."""
        event = self.events.get(log.topics[0]) if log.topics else None
        if event is None or log.address.lower() != self.address.lower():
            return None
        return Said(event.name, event.values(log), log)

    def topic(self, event: str) -> bytes:
        """The first topic of an event by its name."""
        return next(found.topic for found in self.events.values() if found.name == event)

    @cached_property
    def events(self) -> Mapping[bytes, Event]:
        found = {}
        for entry in self.artifact.abi:
            if entry["type"] != "event" or entry.get("anonymous"):
                continue
            inputs = [(item["name"], written_type(item), item["indexed"]) for item in entry["inputs"]]
            topic = abi.topic(f"{entry['name']}({','.join(kind for _, kind, _ in inputs)})")
            indexed = tuple((name, kind) for name, kind, is_topic in inputs if is_topic)
            plain = tuple((name, kind) for name, kind, is_topic in inputs if not is_topic)
            found[topic] = Event(entry["name"], topic, indexed, plain)
        return found

    @cached_property
    def _functions(self) -> Mapping[str, tuple[Function, ...]]:
        found: dict[str, tuple[Function, ...]] = {}
        for entry in self.artifact.abi:
            if entry["type"] == "function":
                arguments = ",".join(written_type(item) for item in entry["inputs"])
                outputs = tuple(written_type(item) for item in entry["outputs"])
                made = Function(f"{entry['name']}({arguments})", outputs)
                found[entry["name"]] = (*found.get(entry["name"], ()), made)
                found[made.signature] = (made,)
        return found

    def _function(self, name: str, arguments: int) -> Function:
        fitting = [
            found
            for found in self._functions.get(name, ())
            if len(abi.argument_types(found.signature)) == arguments
        ]
        if len(fitting) != 1:
            raise NoSuchFunction(f"{self.artifact.name} has {len(fitting)} {name} with {arguments} arguments")
        return fitting[0]


def _is_word(kind: str) -> bool:
    return kind not in ("string", "bytes") and not kind.endswith("]") and not kind.startswith("(")
