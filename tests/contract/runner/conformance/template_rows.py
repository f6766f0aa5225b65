"""Every rule of templates: where a reference is looked up, and what a value becomes inside of a text."""

from tests.contract.runner.conformance.row import Row, keep, node

IN = "{{@trigger:Trigger."


def shows(name: str, template: str, becomes: object, **given: object) -> Row:
    """The input's fields and one template."""
    return Row(
        name, (keep("a", template),), "trigger>a", given, inputs={"a": {"value": becomes}}, ran="trigger a"
    )


def refused(name: str, template: str, **given: object) -> Row:
    return Row(
        name,
        (keep("a", template), keep("b", "x")),
        "trigger>a a>b",
        given,
        status="error",
        error="Unresolved template reference",
        ran="trigger a",
    )


ROWS = (
    shows("a text goes in as it is", f"<{IN}word}}}}>", "<hello>", word="hello"),
    shows("a number as JavaScript writes it", f"{IN}n}}}}", "1.5", n=1.5),
    shows("a whole number has no point", f"{IN}n}}}}", "3", n=3.0),
    shows(
        "a large whole number keeps its digits",
        f"{IN}n}}}}",
        "123456789012345678901",
        n=123456789012345678901,
    ),
    shows("true and false", f"{IN}yes}}}} {IN}no}}}}", "true false", yes=True, no=False),
    shows("a list is JSON without spaces", f"{IN}items}}}}", '[1,"b",null]', items=[1, "b", None]),
    shows("an object is JSON without spaces", f"{IN}thing}}}}", '{"a":{"b":2.5}}', thing={"a": {"b": 2.5}}),
    shows("letters beyond ASCII are not escaped in JSON", f"{IN}thing}}}}", '{"a":"é"}', thing={"a": "é"}),
    shows("null that is present is nothing", f"[{IN}gone}}}}]", "[]", gone=None),
    shows("an empty text is present", f"[{IN}gone}}}}]", "[]", gone=""),
    shows("dots lead into objects", f"{IN}a.b.c}}}}", "deep", a={"b": {"c": "deep"}}),
    shows("brackets lead into lists", f"{IN}a[1].b}}}}", "two", a=[{"b": "one"}, {"b": "two"}]),
    shows("brackets after brackets", f"{IN}a[1][0]}}}}", "x", a=[[], ["x"]]),
    shows("what is not at the top is looked for in data", f"{IN}f}}}}", "in data", data={"f": "in data"}),
    shows("then in result", f"{IN}f}}}}", "in result", result={"f": "in result"}),
    shows("the top comes before data", f"{IN}f}}}}", "top", f="top", data={"f": "in data"}),
    shows("data comes before result", f"{IN}f}}}}", "d", data={"f": "d"}, result={"f": "r"}),
    shows("several references in one text", f"{IN}a}}}}-{IN}b}}}}-{IN}a}}}}", "1-2-1", a=1, b=2),
    shows("references by label, whatever the case", "{{trigger.word}} {{TRIGGER.word}}", "hi hi", word="hi"),
    shows("references by id with a dollar sign", "{{$trigger.word}}", "hi", word="hi"),
    shows(
        "what an input holds in braces is a reference too",
        f"{IN}a}}}}",
        "secret",
        a="{{Trigger.b}}",
        b="secret",
    ),
    Row(
        "templates are filled in lists and objects of a configuration",
        (keep("a", {"list": ["{{@trigger:Trigger.a}}", {"deep": "{{@trigger:Trigger.a}}"}], "n": 1}),),
        "trigger>a",
        {"a": "x"},
        inputs={"a": {"value": {"list": ["x", {"deep": "x"}], "n": 1}}},
    ),
    Row(
        "the whole output of a node",
        (keep("a", "x"), keep("b", "{{@a:A}}")),
        "trigger>a a>b",
        inputs={"b": {"value": '{"success":true,"created":true,"version":1}'}},
    ),
    Row(
        "ids with signs are found",
        (node("set-it", "State Set", "Set It", key="k", value="x"), keep("b", "{{@set-it:Set It.version}}")),
        "trigger>set-it set-it>b",
        inputs={"b": {"value": "1"}},
    ),
    Row(
        "a label with a dot is known to be the node's own",
        (node("a", "State Set", "Step.one", key="k", value="x"), keep("b", "{{@a:Step.one.version}}")),
        "trigger>a a>b",
        inputs={"b": {"value": "1"}},
    ),
    Row(
        "the trigger says that and when it was triggered",
        (keep("a", "{{@trigger:Trigger.triggered}}"),),
        "trigger>a",
        inputs={"a": {"value": "true"}},
        outputs={"trigger": {"triggered": True}},
    ),
    Row(
        "the system's time can be read",
        (
            node(
                "a",
                "Condition",
                condition="{{@__system:System.unixTimestampMs}} / 1000 >= {{@__system:System.unixTimestamp}}"
                ' && String({{@__system:System.isoTimestamp}}).endsWith("Z")',
            ),
        ),
        "trigger>a",
        outputs={"a": {"condition": True}},
    ),
    refused("a field that is not there", f"{IN}nowhere}}}}"),
    refused("an index beyond the end", f"{IN}a[2]}}}}", a=[1, 2]),
    refused("a field of a text", f"{IN}a.b}}}}", a="text"),
    refused("a node that is not there", "{{@nobody:Nobody.f}}"),
    refused("a node that has not run yet", "{{@b:B.version}}"),
    refused("a label that is not there", "{{Nobody.f}}"),
    refused("null by label", "{{Trigger.gone}}", gone=None),
    refused("what is no reference", "{{@broken}}"),
)
