"""Decides a Condition: a `conditionConfig` of rules, or a `condition` that is an expression.

Only `{{@nodeId:Label.path}}` is resolved here. What it resolves to is bound to a name and never becomes
part of the expression, so no input can rewrite it. A path that is not there may be tested for being there;
any other use of it is refused. Knows no chain and no journal.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from services.keeper.runner import expressions, interpreter, templates
from services.keeper.runner.expressions import UNDEFINED, ExpressionRefused
from services.keeper.runner.interpreter import Missing, compared, truth
from services.keeper.runner.templates import ABSENT, LEFT_OVER, STORED, Outputs

COMPARISONS = ("==", "===", "!=", "!==", ">", ">=", "<", "<=")
TEXTS = {"contains": ".includes", "startsWith": ".startsWith", "endsWith": ".endsWith"}


class ConditionRefused(Exception):
    """The condition can't be decided; nothing behind it runs."""


@dataclass(frozen=True)
class References:
    """What a condition may refer to. `silent`: nodes of this workflow that have not run."""

    outputs: Outputs
    silent: Collection[str] = field(default_factory=frozenset)

    def value(self, node_id: str, rest: str) -> Any:
        """Raises ConditionRefused for a node that is neither done nor of this workflow."""
        found, why = templates.by_id(node_id, rest, self.outputs)
        if found is not ABSENT:
            return found
        if node_id.strip() in self.silent:
            return UNDEFINED
        if why.endswith("no output yet"):
            raise ConditionRefused(f"Condition references {node_id}: {why}")
        return Missing(why)


def decide(config: Mapping[str, Any], references: References) -> bool:
    """Which of its two branches is taken. Raises ConditionRefused."""
    authored = config.get("condition")
    group = (config.get("conditionConfig") or {}).get("group")
    try:
        if isinstance(group, Mapping) and _counts(group):
            return _group(group, references)
        if isinstance(authored, bool):
            return authored
        if not isinstance(authored, str) or not authored.strip() or (group and authored.strip() == "true"):
            raise ConditionRefused("Condition node has no expression configured")
        return _expression(authored, references)
    except ExpressionRefused as why:
        raise ConditionRefused(f"Failed to evaluate condition expression: {why}") from why


def _expression(source: str, references: References) -> bool:
    names: dict[str, Any] = {}

    def bound(match: Any) -> str:
        name = f"$v{len(names)}"
        names[name] = references.value(match[1], match[2])
        return f" {name} "

    plain = STORED.sub(bound, source)
    left = LEFT_OVER.findall(plain)
    if left:
        raise ConditionRefused(
            f"Condition contains unresolved template reference(s): {', '.join(left)};"
            " conditions take {{@nodeId:Label.field}}"
        )
    return truth(interpreter.value_of(expressions.read(plain), names))


def _counts(item: Mapping[str, Any]) -> bool:
    """Whether anything in it is filled in: half a rule is what an editor saves while somebody types."""
    if "rules" in item:
        return any(_counts(rule) for rule in item["rules"])
    right_needed = item.get("operator") in (*COMPARISONS, *TEXTS, *WITH_RIGHT)
    sides = [item.get("leftOperand")] + ([item.get("rightOperand")] if right_needed else [])
    return all(isinstance(side, str) and side.strip() for side in sides)


def _group(group: Mapping[str, Any], references: References) -> bool:
    decided = (
        _group(item, references) if "rules" in item else _rule(item, references)
        for item in group["rules"]
        if _counts(item)
    )
    return any(decided) if group.get("logic") == "OR" else all(decided)


def _rule(rule: Mapping[str, Any], references: References) -> bool:
    left, sign = _operand(rule["leftOperand"], references), str(rule.get("operator"))
    if sign in UNARY:
        return UNARY[sign](UNDEFINED if isinstance(left, Missing) and sign in PRESENCE else left)
    right = _operand(str(rule.get("rightOperand", "")), references)
    if sign in COMPARISONS:
        return bool(compared(sign, left, right))
    left = _there(left)
    if sign in TEXTS:
        return bool(interpreter.called(TEXTS[sign], interpreter.called("String", None, left), right))
    if sign in WITH_RIGHT:
        return WITH_RIGHT[sign](left, _there(right))
    raise ConditionRefused(f"there is no operator {sign}")


def _operand(written: str, references: References) -> Any:
    """A reference, a number, true, false, null, undefined, a text in quotes, or any other text as it is."""
    said = written.strip()
    reference = STORED.fullmatch(said)
    if reference is not None:
        return references.value(reference[1], reference[2])
    if LEFT_OVER.search(said):
        raise ConditionRefused(f"an operand is one reference or a plain value, not {said}")
    quoted = len(said) > 1 and said[0] == said[-1] and said[0] in "\"'"
    if quoted or said in ("true", "false", "null", "undefined") or interpreter.NUMERIC.fullmatch(said):
        return interpreter.value_of(expressions.read(said), {})
    return said


def _there(value: Any) -> Any:
    if isinstance(value, Missing):
        raise ExpressionRefused(f"Condition references field {value.what}")
    return value


def _nothing(value: Any) -> bool:
    return value is None or value is UNDEFINED


def _list(value: Any) -> bool:
    return isinstance(_there(value), list)


def _has_key(value: Any, key: Any) -> bool:
    return not _nothing(value) and key in interpreter.called("Object.keys", None, value)


UNARY: Mapping[str, Callable[[Any], bool]] = {
    "isEmpty": lambda value: _nothing(value) or value == "",
    "isNotEmpty": lambda value: not _nothing(value) and value != "",
    "exists": lambda value: not _nothing(value),
    "doesNotExist": _nothing,
    "isNull": lambda value: value is None,
    "isNotNull": lambda value: value is not None,
    "isUndefined": lambda value: value is UNDEFINED,
    "isNotUndefined": lambda value: value is not UNDEFINED,
    "isTrue": lambda value: _there(value) is True,
    "isFalse": lambda value: _there(value) is False,
    "arrayIsEmpty": lambda value: _list(value) and not value,
    "arrayIsNotEmpty": lambda value: _list(value) and bool(value),
    "objectIsEmpty": lambda value: (
        not _nothing(_there(value)) and not interpreter.called("Object.keys", None, value)
    ),
}
PRESENCE = (
    "isEmpty", "isNotEmpty", "exists", "doesNotExist", "isNull", "isNotNull", "isUndefined", "isNotUndefined",
)  # fmt: skip
WITH_RIGHT: Mapping[str, Callable[[Any, Any], bool]] = {
    "matchesRegex": lambda value, pattern: bool(interpreter.called("matchesRegex", None, value, pattern)),
    "arrayContains": lambda value, item: _list(value) and bool(interpreter.called(".includes", value, item)),
    "arrayLength": lambda value, length: _list(value) and bool(compared("===", len(value), length)),
    "objectHasKey": _has_key,
}
