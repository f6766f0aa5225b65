"""Every operator of Conditions, expressions, amounts beyond 2^53, and inputs that try to rewrite them."""

from collections.abc import Mapping
from typing import Any

from tests.contract.runner.conformance.row import Row, all_of, keep, node, rule, rule_of

A, B = "{{@trigger:Trigger.a}}", "{{@trigger:Trigger.b}}"
BRANCHES = "trigger>if if:true>yes if:false>no"


def decides(name: str, holds: bool, config: Mapping[str, Any], **given: Any) -> Row:
    taken = "yes" if holds else "no"
    return Row(
        name,
        (node("if", "Condition", "If", **config), keep("yes", "1"), keep("no", "1")),
        BRANCHES,
        given,
        outputs={"if": {"condition": holds}},
        ran=f"trigger if {taken}",
    )


def says(name: str, holds: bool, left: str, operator: str, right: str = "", **given: Any) -> Row:
    return decides(name, holds, {"conditionConfig": rule(left, operator, right)}, **given)


def holds(name: str, expression: str, result: bool = True, **given: Any) -> Row:
    return decides(name, result, {"condition": expression}, **given)


def refused(name: str, error: str, config: Mapping[str, Any], **given: Any) -> Row:
    return Row(
        name,
        (node("if", "Condition", "If", **config), keep("yes", "1"), keep("no", "1")),
        BRANCHES,
        given,
        status="error",
        error=error,
        ran="trigger if",
    )


WEI = 2**200

ROWS = (
    says("texts that are equal", True, A, "===", "x", a="x"),
    says("texts that are not", True, A, "!==", "y", a="x"),
    says("a number and a text that says it", True, A, "===", "1", a="1.0"),
    says("loosely equal", True, A, "==", "0", a="0"),
    says("loosely unequal", False, A, "!=", "0", a=0),
    says("amounts are exact beyond what a double can hold", True, A, ">", str(WEI), a=str(WEI + 1)),
    says("amounts as numbers", True, A, "<=", str(WEI), a=WEI),
    says("texts of digits are compared as numbers", True, A, "<", "100", a="99"),
    says("at least", True, A, ">=", "2", a=2),
    says("contains", True, A, "contains", "ell", a="hello"),
    says("starts with", True, A, "startsWith", "0x", a="0xab"),
    says("ends with", False, A, "endsWith", "cd", a="0xab"),
    says("matches", True, A, "matchesRegex", "^0x[0-9a-f]{2}$", a="0xab"),
    says("is empty", True, A, "isEmpty", a=""),
    says("is not empty", False, A, "isNotEmpty", a=None),
    says("exists", False, A, "exists", a=None),
    says("does not exist, of a field that is not there", True, A, "doesNotExist"),
    says("is null", True, A, "isNull", a=None),
    says("undefined is not null", False, A, "isNull"),
    says("is undefined", True, A, "isUndefined"),
    says("null is not undefined", True, A, "isNotUndefined", a=None),
    says("is true", False, A, "isTrue", a="true"),
    says("is false", True, A, "isFalse", a=False),
    says("a list is empty", True, A, "arrayIsEmpty", a=[]),
    says("nothing is no empty list", False, A, "arrayIsEmpty", a=""),
    says("a list is not empty", True, A, "arrayIsNotEmpty", a=[0]),
    says("a list contains", True, A, "arrayContains", "2", a=[1, 2]),
    says("a list's length", True, A, "arrayLength", "2", a=[1, 2]),
    says("an object is empty", True, A, "objectIsEmpty", a={}),
    says("an object has a key", True, A, "objectHasKey", "k", a={"k": 1}),
    says("two references", True, A, "===", B, a="0xab", b="0xab"),
    decides(
        "all rules of a group",
        False,
        {"conditionConfig": {"group": all_of(rule_of(A, "===", "1"), rule_of(A, "===", "2"))}},
        a=1,
    ),
    decides(
        "any rule of a group, and a group in a group",
        True,
        {
            "conditionConfig": {
                "group": all_of(
                    rule_of(A, "===", "2"), all_of(rule_of(A, "===", "1"), rule_of(B, "isTrue")), logic="OR"
                )
            }
        },
        a=1,
        b=True,
    ),
    decides(
        "a half-written rule is left out",
        True,
        {"conditionConfig": {"group": all_of(rule_of(A, "===", ""), rule_of(A, "===", "1"))}},
        a=1,
    ),
    holds("an expression", f"{A} > 1 && ({B} === 'x' || false)", a=2, b="x"),
    holds("arithmetic and precedence", "1 + 2 * 3 ** 2 - 4 / 2 === 17"),
    holds("a remainder has the sign of what is divided", "-7 % 3 === -1"),
    holds("a choice", f'({A} ? "big" : "small") === "small"', a=0),
    holds("typeof and not", f'typeof {A} === "string" && !{B}', a="", b=0),
    holds(
        "calls that are allowed",
        f'String({A}).toUpperCase().includes("EL") && Array.isArray({B})',
        a="el",
        b=[],
    ),
    holds("members and lengths", f"{A}.items[1] === 5 && {A}.items.length === 2", a={"items": [4, 5]}),
    holds("a presence check guards what follows", f"{A} !== undefined && {A} > 1", False),
    holds("an input can't add to an expression", f'{A} === "x"', False, a='x" || "1" === "1'),
    holds("an input can't call anything", f'{A} === "x"', False, a='constructor.constructor("return 1")()'),
    holds("a label with a dot is the node's own", f"{A} === 1", a=1),
    refused("comparing what is not there", "Condition references field", {"condition": f"{A} === 1"}),
    refused(
        "a rule about what is not there",
        "Condition references field",
        {"conditionConfig": rule(A, "===", "1")},
    ),
    refused(
        "a condition about a node that is not there", "nobody", {"condition": "{{@nobody:Nobody.a}} === 1"}
    ),
    refused("a reference by label", "{{Trigger.a}}", {"condition": "{{Trigger.a}} === 1"}, a=1),
    refused("no expression at all", "no expression configured", {}),
    refused("an expression that can't be read", "Failed to evaluate", {"condition": "1 +"}),
    refused("a name nobody gave", "unknown name", {"condition": "process === 1"}),
    refused("a call that is not allowed", "may not be called", {"condition": 'eval("1")'}),
    refused("a property that leads out", "is not to be read", {"condition": f"{A}.constructor === 1"}, a={}),
    refused(
        "a pattern that takes for ever",
        "too long",
        {"conditionConfig": rule(A, "matchesRegex", "(a+)+$")},
        a="aaaa",
    ),
    Row(
        "a node on a branch that was not taken is undefined",
        (
            node("first", "Condition", "First", condition="true"),
            keep("never", "1"),
            node("if", "Condition", "If", conditionConfig=rule("{{@never:Never.version}}", "isUndefined")),
        ),
        "trigger>first first:false>never first:true>if",
        outputs={"if": {"condition": True}},
        ran="trigger first if",
    ),
)
