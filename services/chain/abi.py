"""Calldata and answers by a function's written signature: `call("transfer(address,uint256)", to, 5)`.

Knows no contract and no chain.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

from eth_abi.abi import decode as decode_values
from eth_abi.abi import encode as encode_values
from eth_abi.grammar import TupleType, parse
from eth_utils.crypto import keccak


@cache
def argument_types(signature: str) -> tuple[str, ...]:
    """The types between the outer brackets of `name(type,...)`; tuples stay one type each."""
    listed = signature[signature.index("(") :]
    if listed == "()":
        return ()
    inside = parse(listed)
    if not isinstance(inside, TupleType):
        raise ValueError(f"not a signature: {signature}")
    return tuple(part.to_type_str() for part in inside.components)


@cache
def selector(signature: str) -> bytes:
    """The first four bytes of calldata."""
    return keccak(text=signature)[:4]


@cache
def topic(signature: str) -> bytes:
    """The first topic of an event's logs."""
    return keccak(text=signature)


def call(signature: str, *arguments: object) -> bytes:
    """Selector and encoded arguments. Raises EncodingError for a value that does not fit its type."""
    return selector(signature) + encode(argument_types(signature), *arguments)


def encode(types: Sequence[str], *values: object) -> bytes:
    return encode_values(types, values)


def decode(types: Sequence[str], data: bytes) -> tuple[Any, ...]:
    """Raises DecodingError when `data` is not of these types (an empty answer: no contract there)."""
    return decode_values(types, data)
