"""Joins, branches, skips, failures, disabled nodes and loops."""

from typing import Any

from tests.contract.runner.conformance.row import Row, keep, node, rule

YES, NO = rule("1", "===", "1"), rule("1", "===", "2")


def when(node_id: str, condition: dict[str, Any], **more: Any) -> dict[str, Any]:
    return node(node_id, "Condition", conditionConfig=condition, **more)


def fails(node_id: str) -> dict[str, Any]:
    """A step that gives `success` false."""
    return node(node_id, "State Set", key="", value="x")


def throws(node_id: str) -> dict[str, Any]:
    """A step that can't be asked: what it refers to is not there."""
    return keep(node_id, "{{@trigger:Trigger.nowhere}}")


def each(items: Any, **more: Any) -> dict[str, Any]:
    return node("loop", "For Each", "For Each", arraySource=items, **more)


ITEM = "{{@loop:For Each.currentItem}}"
COLLECT = node("collect", "Collect")
LOOP = "trigger>loop loop:loop>a loop:done>collect"

ROWS = (
    Row("nothing but a trigger", (), "", {"a": 1}, ran="trigger", outputs={"trigger": {"a": 1}}),
    Row("a chain", (keep("a", "1"), keep("b", "2")), "trigger>a a>b", ran="trigger a b"),
    Row(
        "a fork runs all its branches",
        (keep("a", "1"), keep("b", "2"), keep("c", "3")),
        "trigger>a trigger>b trigger>c",
        ran="trigger a b c",
    ),
    Row(
        "a join waits for all, also for the longer branch",
        (keep("a", "1"), keep("b", "2"), keep("c", "3"), keep("d", "{{@a:A.version}}{{@c:C.version}}")),
        "trigger>a trigger>b b>c a>d c>d",
        ran="trigger a b c d",
        inputs={"d": {"value": "11"}},
    ),
    Row(
        "the true branch is taken, the false one is not",
        (when("if", YES), keep("a", "1"), keep("b", "2")),
        "trigger>if if:true>a if:false>b",
        ran="trigger if a",
        outputs={"if": {"condition": True}},
    ),
    Row(
        "the false branch is taken",
        (when("if", NO), keep("a", "1"), keep("b", "2")),
        "trigger>if if:true>a if:false>b",
        ran="trigger if b",
        outputs={"if": {"condition": False}},
    ),
    Row(
        "a branch that was not taken does not hold up a join",
        (when("if", YES), keep("a", "1"), keep("b", "2"), keep("c", "3")),
        "trigger>if if:true>a if:false>b a>c b>c",
        ran="trigger if a c",
    ),
    Row(
        "a join all of whose sources are skipped is skipped",
        (when("if", YES), when("or", YES), keep("a", "1"), keep("b", "2")),
        "trigger>if trigger>or if:false>a or:false>a a>b",
        ran="trigger if or",
    ),
    Row(
        "a skip goes on through what is skipped, up to a join that also has a real source",
        (when("if", NO), keep("a", "1"), keep("b", "2"), keep("c", "3"), keep("d", "4")),
        "trigger>if if:true>a a>b b>d trigger>c c>d",
        ran="trigger if c d",
    ),
    Row(
        "one node behind both branches runs",
        (when("if", NO), keep("a", "1")),
        "trigger>if if:true>a if:false>a",
        ran="trigger if a",
    ),
    Row(
        "an edge without a handle leads on from a Condition that holds",
        (when("if", YES), keep("a", "1")),
        "trigger>if if>a",
        ran="trigger if a",
    ),
    Row(
        "and not from one that does not",
        (when("if", NO), keep("a", "1")),
        "trigger>if if>a",
        ran="trigger if",
    ),
    Row(
        "a step that failed ends its branch",
        (fails("a"), keep("b", "2")),
        "trigger>a a>b",
        status="error",
        ran="trigger a",
        error="State key",
        outputs={"a": {"success": False}},
    ),
    Row(
        "other branches of a failing run go to their end",
        (fails("a"), keep("b", "2"), keep("c", "3")),
        "trigger>a trigger>b b>c",
        status="error",
        ran="trigger a b c",
    ),
    Row(
        "a join behind a step that failed never runs",
        (fails("a"), keep("b", "2"), keep("c", "3")),
        "trigger>a trigger>b a>c b>c",
        status="error",
        ran="trigger a b",
    ),
    Row(
        "a join behind a step that threw runs",
        (throws("a"), keep("b", "2"), keep("c", "3")),
        "trigger>a trigger>b a>c b>c",
        status="error",
        ran="trigger a b c",
        error="Unresolved template reference",
    ),
    Row(
        "what a join refers to of a step that threw is not there",
        (throws("a"), keep("b", "2"), keep("c", "{{@a:A.version}}")),
        "trigger>a trigger>b a>c b>c",
        status="error",
        ran="trigger a b c",
    ),
    Row(
        "a plain node behind a step that threw does not run",
        (throws("a"), keep("b", "2")),
        "trigger>a a>b",
        status="error",
        ran="trigger a",
    ),
    Row(
        "an action that nobody knows",
        (node("a", "magic/conjure"), keep("b", "2")),
        "trigger>a a>b",
        status="error",
        ran="trigger a",
        error="magic/conjure",
    ),
    Row(
        "a node without an action",
        (node("a", ""),),
        "trigger>a",
        status="error",
        ran="trigger a",
        error="no action type configured",
    ),
    Row(
        "a disabled node is passed over",
        (keep("a", "1", enabled=False), keep("b", "2")),
        "trigger>a a>b",
        ran="trigger b",
    ),
    Row(
        "a disabled node gives null, and null has no fields",
        (keep("a", "1", enabled=False), keep("b", "{{@a:A.version}}")),
        "trigger>a a>b",
        status="error",
        error="produced no data",
    ),
    Row(
        "a disabled Condition leads everywhere",
        (when("if", YES, enabled=False), keep("a", "1"), keep("b", "2")),
        "trigger>if if:true>a if:false>b",
        ran="trigger a b",
    ),
    Row(
        "a join takes a disabled source for an arrival",
        (keep("a", "1", enabled=False), keep("b", "2"), keep("c", "3")),
        "trigger>a trigger>b a>c b>c",
        ran="trigger b c",
    ),
    Row(
        "a node that nothing leads to does not run",
        (keep("a", "1"), keep("b", "2")),
        "trigger>a",
        ran="trigger a",
    ),
    Row(
        "a loop runs its body once per item and gives what the body gave",
        (each("[5,6]"), node("a", "State Set", key=f"k{ITEM}", value=ITEM), COLLECT),
        LOOP,
        outputs={"collect": {"count": 2, "results": [{"version": 1, "created": True}] * 2}},
        ran="trigger loop a a collect",
    ),
    Row(
        "a list of the input, by reference",
        (each("{{@trigger:Trigger.items}}"), keep("a", f"{ITEM}{{{{@loop:For Each.index}}}}"), COLLECT),
        LOOP,
        {"items": ["x", "y", "z"]},
        outputs={"collect": {"count": 3}, "loop": {"arrayLength": 3}},
        inputs={"a": {"value": "z2"}},
    ),
    Row(
        "an empty list is gone through at once",
        (each("[]"), keep("a", "never"), COLLECT),
        LOOP,
        outputs={"collect": {"count": 0, "results": []}},
        ran="trigger loop collect",
    ),
    Row(
        "at most so many iterations",
        (each("[1,2,3]", maxIterations="2"), keep("a", ITEM), COLLECT),
        LOOP,
        outputs={"collect": {"count": 2}},
    ),
    Row(
        "an item may be mapped to one of its fields",
        (each('[{"id":"one"},{"id":"two"}]', mapExpression="id"), keep("a", ITEM), COLLECT),
        LOOP,
        inputs={"a": {"value": "two"}},
    ),
    Row(
        "side by side gives the results in the order of the items",
        (
            each("[3,2,1]", concurrency="parallel"),
            node("a", "Condition", condition=f"{ITEM} > 1"),
            COLLECT,
        ),
        LOOP,
        outputs={"collect": {"results": [{"condition": True}, {"condition": True}, {"condition": False}]}},
    ),
    Row(
        "so many side by side",
        (each("[1,2,3,4]", concurrency="custom", concurrencyLimit="2"), keep("a", ITEM), COLLECT),
        LOOP,
        outputs={"collect": {"count": 4}},
    ),
    Row(
        "a Condition inside of a loop chooses per item",
        (
            each("[1,2]"),
            node("if", "Condition", "If", condition=f"{ITEM} == 1"),
            node("a", "State Set", key=f"yes{ITEM}", value="1"),
            node("b", "State Set", key=f"no{ITEM}", value="1"),
            COLLECT,
        ),
        "trigger>loop loop:loop>if if:true>a if:false>b loop:done>collect",
        ran="trigger loop if a if b collect",
    ),
    Row(
        "one failing iteration: the others run, what comes after the loop does not",
        (each('["","ok"]'), node("a", "State Set", key=ITEM, value="x"), COLLECT, keep("z", "1")),
        "trigger>loop loop:loop>a loop:done>collect collect>z",
        status="error",
        ran="trigger a a loop",
        outputs={"loop": {"failedIterations": 1}},
        error="State key",
    ),
    Row(
        "a step that comes after a loop without a Collect",
        (each("[1,2]"), keep("a", ITEM), keep("z", "{{@loop:For Each.arrayLength}}")),
        "trigger>loop loop:loop>a loop:done>z",
        inputs={"z": {"value": "2"}},
        ran="trigger loop a a z",
    ),
    Row(
        "without handles a loop's body ends at its Collect",
        (each("[1,2]"), keep("a", ITEM), COLLECT, keep("z", "{{@collect:Collect.count}}")),
        "trigger>loop loop>a a>collect collect>z",
        inputs={"z": {"value": "2"}},
        ran="trigger loop a a collect z",
    ),
    Row(
        "a loop in a loop",
        (
            each("[[1,2],[3]]"),
            node("in", "For Each", "Inner", arraySource=ITEM),
            keep("a", "{{@in:Inner.currentItem}}"),
            COLLECT,
        ),
        "trigger>loop loop:loop>in in:loop>a loop:done>collect",
        outputs={"collect": {"count": 2}},
        inputs={"a": {"value": "3"}},
        ran="trigger loop in in a a a collect",
    ),
    Row(
        "what is no list can't be gone through",
        (each("{{@trigger:Trigger.a}}"), keep("a", "1"), COLLECT),
        LOOP,
        {"a": "text"},
        status="error",
        error="not a list",
        ran="trigger loop",
    ),
    Row(
        "a Collect that ends no loop",
        (COLLECT,),
        "trigger>collect",
        status="error",
        error="Collect",
    ),
)
