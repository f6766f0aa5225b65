"""What an expression comes to: a walk over its tree with the values that its names hold.

Those are values, never source: no input can add to an expression. Numbers are exact however large, also when
they are written as texts, because amounts of money are. Knows no template and no node.
"""

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from services.keeper.runner.expressions import (
    FORBIDDEN,
    UNDEFINED,
    Binary,
    Call,
    Choice,
    ExpressionRefused,
    Literal,
    Member,
    Name,
    Tree,
    Unary,
)
from services.keeper.runner.written import text

ORDER: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
PLAIN: Mapping[str, Callable[[Any, Any], Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "%": operator.mod,
}  # fmt: skip
NUMERIC = re.compile(r"[+-]?\d{1,1000}(\.\d{1,1000})?", re.ASCII)
LONGEST_PATTERN, LONGEST_SUBJECT, MOST_BITS = 200, 4096, 8192
NESTED_REPEAT = re.compile(r"\([^()]*[+*{][^()]*\)[+*{]")


@dataclass(frozen=True)
class Missing:
    """A reference to what is not there: a test for presence sees undefined, anything else is refused."""

    what: str


def value_of(tree: Tree, names: Mapping[str, Any]) -> Any:
    """What it comes to. Raises ExpressionRefused."""
    match tree:
        case Literal(value):
            return value
        case Name(name):
            if name not in names:
                raise ExpressionRefused(f"unknown name {name}")
            return names[name]
        case Unary(sign, of):
            return _unary(sign, _there(value_of(of, names)))
        case Binary("&&" | "||" as sign, left, right):
            first = value_of(left, names)
            return value_of(right, names) if truth(_there(first)) == (sign == "&&") else first
        case Binary(sign, left, right):
            return compared(sign, value_of(left, names), value_of(right, names))
        case Choice(test, then, otherwise):
            return value_of(then if truth(_there(value_of(test, names))) else otherwise, names)
        case Member(of, key):
            return _member(value_of(of, names), value_of(key, names))
        case Call(function, of, arguments):
            receiver = None if of is None else value_of(of, names)
            return called(function, receiver, *(value_of(argument, names) for argument in arguments))


def truth(value: Any) -> bool:
    """As JavaScript sees it: an empty list is true."""
    return isinstance(value, list | dict) or bool(value and value is not UNDEFINED)


def compared(sign: str, left: Any, right: Any) -> Any:
    """Numbers are compared exactly, however large, also when they are written as texts.

    Raises ExpressionRefused for a missing value that is not just tested for being there.
    """
    if sign in ("==", "!=", "===", "!=="):
        presence = (UNDEFINED, None, "")
        if isinstance(left, Missing) and any(right is probe or right == probe for probe in presence):
            left = UNDEFINED
        if isinstance(right, Missing) and any(left is probe or left == probe for probe in presence):
            right = UNDEFINED
        same = _same(_there(left), _there(right), loose=len(sign) == 2)
        return same if sign[0] == "=" else not same
    left, right = _there(left), _there(right)
    if sign in ORDER:
        first, second = number(left), number(right)
        if first is not None and second is not None:
            return ORDER[sign](first, second)
        return isinstance(left, str) and isinstance(right, str) and ORDER[sign](left, right)
    return _arithmetic(sign, left, right)


def called(function: str, receiver: Any, *arguments: Any) -> Any:
    """One of the functions an expression may call. Raises ExpressionRefused."""
    given = [_there(argument) for argument in arguments]
    receiver = _there(receiver)
    match function, receiver, given:
        case "String", None, [value]:
            return _written(value)
        case "matchesRegex", None, [value, pattern]:
            return _matches(_written(value), _written(pattern))
        case "Array.isArray", None, [value]:
            return isinstance(value, list)
        case "Object.keys", None, [dict() as value]:
            return list(value)
        case "Object.keys", None, [list() | str() as value]:
            return [str(index) for index in range(len(value))]
        case ".includes", str(), [part]:
            return _written(part) in receiver
        case ".includes", list(), [part]:
            return any(_same(item, part, loose=False) for item in receiver)
        case ".startsWith", str(), [part]:
            return receiver.startswith(_written(part))
        case ".endsWith", str(), [part]:
            return receiver.endswith(_written(part))
        case ".toLowerCase", str(), []:
            return receiver.lower()
        case ".toUpperCase", str(), []:
            return receiver.upper()
        case ".trim", str(), []:
            return receiver.strip()
        case ".toString", _, [] if receiver is not None and receiver is not UNDEFINED:
            return _written(receiver)
    raise ExpressionRefused(f"{function} may not be called so in a condition")


def number(value: Any) -> Decimal | None:
    """The number that a value is or, as a text, says; exact."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        return Decimal(repr(value))
    if isinstance(value, str) and NUMERIC.fullmatch(value.strip()):
        return Decimal(value.strip())
    return None


def _there(value: Any) -> Any:
    if isinstance(value, Missing):
        raise ExpressionRefused(
            f"Condition references field {value.what}; `exists` and its like can test whether it is there"
        )
    return value


def _same(left: Any, right: Any, *, loose: bool) -> bool:
    if isinstance(left, str) and isinstance(right, str):
        return left == right
    if loose and (left is None or left is UNDEFINED) and (right is None or right is UNDEFINED):
        return True
    if loose:
        left = int(left) if isinstance(left, bool) and not isinstance(right, bool) else left
        right = int(right) if isinstance(right, bool) and not isinstance(left, bool) else right
    first, second = number(left), number(right)
    if first is not None and second is not None:
        return first == second
    if isinstance(left, list | dict) or isinstance(right, list | dict):
        return left is right
    return type(left) is type(right) and bool(left == right)


def _arithmetic(sign: str, left: Any, right: Any) -> Any:
    if sign == "+" and (isinstance(left, str) or isinstance(right, str)):
        return _written(left) + _written(right)
    first, second = number(left), number(right)
    if first is None or second is None:
        raise ExpressionRefused(f"{sign} needs numbers")
    if sign in "/%" and second == 0:
        raise ExpressionRefused("a division by zero")
    whole = first == first.to_integral_value() and second == second.to_integral_value()
    if whole and sign != "/":
        return _of_whole(sign, int(first), int(second))
    if sign == "**":
        raise ExpressionRefused("** takes whole numbers")
    return float(PLAIN[sign](first, second))


def _of_whole(sign: str, left: int, right: int) -> int:
    if sign == "**":
        if right < 0 or max(1, left.bit_length()) * right > MOST_BITS:
            raise ExpressionRefused("** of numbers that are too large, or negative")
        return int(left**right)
    if sign == "%":  # JavaScript's remainder has the sign of what is divided
        return abs(left) % abs(right) * (1 if left >= 0 else -1)
    return int(PLAIN[sign](left, right))


def _unary(sign: str, value: Any) -> Any:
    if sign == "!":
        return not truth(value)
    if sign == "typeof":
        if value is UNDEFINED:
            return "undefined"
        if isinstance(value, bool):
            return "boolean"
        return (
            "string" if isinstance(value, str) else "number" if isinstance(value, int | float) else "object"
        )
    found = number(value)
    if found is None:
        raise ExpressionRefused(f"{sign} needs a number")
    signed = -found if sign == "-" else found
    return int(signed) if signed == signed.to_integral_value() else float(signed)


def _member(of: Any, key: Any) -> Any:
    of = _there(of)
    if key in FORBIDDEN:
        raise ExpressionRefused(f"{key} is not to be read in a condition")
    if of is None or of is UNDEFINED:
        raise ExpressionRefused(f"{key} of nothing")
    if isinstance(of, list | str) and key == "length":
        return len(of)
    if isinstance(of, list | str) and isinstance(key, int) and not isinstance(key, bool):
        return of[key] if 0 <= key < len(of) else UNDEFINED
    if isinstance(of, dict) and isinstance(key, str | int):
        return of.get(str(key), UNDEFINED)
    return UNDEFINED


def _matches(subject: str, pattern: str) -> bool:
    """Both bounded, and no repeat of a repeat: such a pattern can take for ever."""
    if len(pattern) > LONGEST_PATTERN or len(subject) > LONGEST_SUBJECT or NESTED_REPEAT.search(pattern):
        raise ExpressionRefused("a pattern or a text that could take too long to match")
    try:
        return re.search(pattern, subject) is not None
    except re.error as wrong:
        raise ExpressionRefused(f"a pattern that can't be read: {wrong}") from wrong


def _written(value: Any) -> str:
    if value is None:
        return "null"
    return "undefined" if value is UNDEFINED else text(value)
