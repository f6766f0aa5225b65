"""Reads a small expression language, KeeperHub's for conditions, into a tree; nothing is ever executed.

Literals, names, comparison, arithmetic, `&& || !`, `typeof`, `?:`, `.key`, `[n]`, and calls of the functions
that `interpreter` knows. Every other sign or call is refused.
"""

import re
from dataclasses import dataclass
from typing import Any

TOKEN = re.compile(
    r"""\s*(?:(?P<number>\d+(?:\.\d+)?)|(?P<text>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')|(?P<name>[A-Za-z_$][\w$]*)"""
    r"""|(?P<sign>===|!==|\*\*|==|!=|<=|>=|&&|\|\||[!<>+\-*/%()\[\].?:,]))""",
    re.ASCII,
)
STRENGTH = {
    "||": 3, "&&": 4, "==": 9, "!=": 9, "===": 9, "!==": 9, "<": 10, "<=": 10, ">": 10, ">=": 10,
    "+": 12, "-": 12, "*": 13, "/": 13, "%": 13, "**": 14,
}  # fmt: skip
CONSTANTS = {"true": True, "false": False, "null": None}
FORBIDDEN = frozenset({"constructor", "__proto__", "prototype"})
DEEPEST = 100


class Undefined:
    """JavaScript's undefined, which is not null."""


UNDEFINED = Undefined()


class ExpressionRefused(Exception):
    """The expression can't be read, or asks for what it may not, or for what is not there."""


@dataclass(frozen=True)
class Literal:
    value: Any


@dataclass(frozen=True)
class Name:
    name: str


@dataclass(frozen=True)
class Unary:
    sign: str
    of: "Tree"


@dataclass(frozen=True)
class Binary:
    sign: str
    left: "Tree"
    right: "Tree"


@dataclass(frozen=True)
class Choice:
    test: "Tree"
    then: "Tree"
    otherwise: "Tree"


@dataclass(frozen=True)
class Member:
    of: "Tree"
    key: "Tree"


@dataclass(frozen=True)
class Call:
    function: str
    of: "Tree | None"
    arguments: tuple["Tree", ...]


Tree = Literal | Name | Unary | Binary | Choice | Member | Call


def read(source: str) -> Tree:
    """Raises ExpressionRefused."""
    return _Reader(source).whole()


class _Reader:
    """Precedence climbing over tokens of (kind, text)."""

    def __init__(self, source: str) -> None:
        self._tokens = _tokens(source)
        self._at = 0
        self._depth = 0

    def whole(self) -> Tree:
        found = self._choice()
        if self._at < len(self._tokens):
            raise ExpressionRefused(f"unexpected {self._tokens[self._at][1]}")
        return found

    def _peek(self) -> str:
        kind, said = self._tokens[self._at] if self._at < len(self._tokens) else ("sign", "")
        return said if kind == "sign" else ""

    def _take(self) -> tuple[str, str]:
        if self._at >= len(self._tokens):
            raise ExpressionRefused("the expression ends too early")
        self._at += 1
        return self._tokens[self._at - 1]

    def _expect(self, sign: str) -> None:
        if self._take() != ("sign", sign):
            raise ExpressionRefused(f"{sign} expected")

    def _choice(self) -> Tree:
        self._depth += 1
        if self._depth > DEEPEST:
            raise ExpressionRefused("the expression is nested too deep")
        test = self._binary(0)
        if self._peek() == "?":
            self._take()
            then = self._choice()
            self._expect(":")
            test = Choice(test, then, self._choice())
        self._depth -= 1
        return test

    def _binary(self, least: int) -> Tree:
        left = self._unary()
        while (strength := STRENGTH.get(self._peek(), -1)) >= least:
            sign = self._take()[1]
            left = Binary(sign, left, self._binary(strength if sign == "**" else strength + 1))
        return left

    def _unary(self) -> Tree:
        typeof = self._at < len(self._tokens) and self._tokens[self._at] == ("name", "typeof")
        if typeof or self._peek() in ("!", "-", "+"):
            self._depth += 1
            if self._depth > DEEPEST:
                raise ExpressionRefused("the expression is nested too deep")
            found = Unary(self._take()[1], self._unary())
            self._depth -= 1
            return found
        return self._members()

    def _members(self) -> Tree:
        found = self._primary()
        while self._peek() in (".", "[", "("):
            sign = self._take()[1]
            if sign == "[":
                found = Member(found, self._choice())
                self._expect("]")
            elif sign == ".":
                kind, name = self._take()
                if kind != "name" or name in FORBIDDEN:
                    raise ExpressionRefused(f"{name} is not to be read in a condition")
                found = Member(found, Literal(name))
            else:
                found = self._call(found)
        return found

    def _call(self, function: Tree) -> Tree:
        arguments: list[Tree] = []
        if self._peek() == ")":
            self._take()
        else:
            arguments.append(self._choice())
            while self._peek() == ",":
                self._take()
                arguments.append(self._choice())
            self._expect(")")
        match function:
            case Name("String" | "matchesRegex" as name):
                return Call(name, None, tuple(arguments))
            case Member(Name("Array" | "Object" as of), Literal(name)):
                return Call(f"{of}.{name}", None, tuple(arguments))
            case Member(of, Literal(str() as name)):
                return Call(f".{name}", of, tuple(arguments))
        raise ExpressionRefused("that may not be called in a condition")

    def _primary(self) -> Tree:
        kind, said = self._take()
        if kind == "number":
            return Literal(float(said) if "." in said else int(said))
        if kind == "text":
            return Literal(_unquoted(said))
        if kind == "name":
            if said == "undefined":
                return Literal(UNDEFINED)
            return Literal(CONSTANTS[said]) if said in CONSTANTS else Name(said)
        if said == "(":
            found = self._choice()
            self._expect(")")
            return found
        raise ExpressionRefused(f"unexpected {said}")


ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "0": "\0"}
ESCAPED = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|u\{([0-9a-fA-F]{1,6})\}|(.))", re.DOTALL)


def _unquoted(said: str) -> str:
    def one(match: re.Match[str]) -> str:
        digits = match[1] or match[2] or match[3]
        if not digits:
            return ESCAPES.get(match[4], match[4])
        if int(digits, 16) > 0x10FFFF:
            raise ExpressionRefused(f"there is no character {match[0]}")
        return chr(int(digits, 16))

    return ESCAPED.sub(one, said[1:-1])


def _tokens(source: str) -> list[tuple[str, str]]:
    found, at, source = [], 0, source.rstrip()
    while at < len(source):
        match = TOKEN.match(source, at)
        if match is None or match.lastgroup is None:
            raise ExpressionRefused(f"{source[at : at + 20].strip()} is not understood")
        found.append((match.lastgroup, match[match.lastgroup]))
        at = match.end()
    return found
