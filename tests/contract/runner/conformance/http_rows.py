"""HTTP Request: what is sent, what is tried again, what a failure becomes, and inputs that rewrite a body."""

from typing import Any

from tests.contract.runner.conformance.row import Row, keep, node

ECHO = "{{@trigger:Trigger.echo}}"


def asks(**config: Any) -> dict[str, Any]:
    return node("a", "HTTP Request", **{"endpoint": f"{ECHO}/echo", **config})


def got(name: str, data: dict[str, Any], given: dict[str, Any] | None = None, **config: Any) -> Row:
    """`/echo` answers with the method, the headers and the body that it got."""
    return Row(
        name,
        (asks(**config),),
        "trigger>a",
        given or {},
        outputs={"a": {"success": True, "status": 200, "data": data}},
        echo=True,
    )


BODY = '{"name":"{{@trigger:Trigger.name}}","tx":"0x1"}'

ROWS = (
    got("POST unless another method is said", {"method": "POST", "body": ""}),
    got("GET has no body", {"method": "GET", "body": ""}, httpMethod="get", httpBody='{"a":1}'),
    got("a JSON body is read and written again", {"body": '{"a":[1,2]}'}, httpBody='{ "a" : [1, 2] }'),
    got("an empty JSON object is no body", {"body": ""}, httpBody="{ }"),
    got("another body goes as it is", {"body": "plain { text"}, httpBody="plain { text"),
    got("headers", {"headers": {"x-one": "1"}}, httpHeaders={"X-One": "1"}),
    got("an input fills a body", {"body": '{"name":"Ann","tx":"0x1"}'}, {"name": "Ann"}, httpBody=BODY),
    got(
        "a quote in an input rewrites a JSON body: inputs have to be checked before",
        {"body": '{"name":"Ann","admin":true,"tx":"0x1"}'},
        {"name": 'Ann","admin":true,"tx":"0x1'},
        httpBody='{"name":"{{@trigger:Trigger.name}}"}',
    ),
    Row(
        "an answer's fields are found in its data",
        (asks(httpBody='{"a":1}'), keep("b", "{{@a:A.method}} {{@a:A.status}}")),
        "trigger>a a>b",
        inputs={"b": {"value": "POST 200"}},
        echo=True,
    ),
    Row(
        "a text is an answer too",
        (asks(endpoint=f"{ECHO}/text"),),
        "trigger>a",
        outputs={"a": {"success": True, "data": "hello"}},
        echo=True,
    ),
    Row(
        "a status that is no success fails the step",
        (asks(endpoint=f"{ECHO}/status/404"), keep("b", "1")),
        "trigger>a a>b",
        status="error",
        error="status 404",
        outputs={"a": {"success": False, "status": 404}},
        ran="trigger a",
        echo=True,
    ),
    Row(
        "softly, when failOnError is off",
        (asks(endpoint=f"{ECHO}/status/404", failOnError=False), keep("b", "{{@a:A.status}}")),
        "trigger>a a>b",
        outputs={"a": {"success": True, "data": None, "status": 404}},
        inputs={"b": {"value": "404"}},
        echo=True,
    ),
    Row(
        "what can pass is tried again",
        (asks(endpoint=f"{ECHO}/third/503", retryAttempts="3", retryDelay="0.01"),),
        "trigger>a",
        outputs={"a": {"success": True, "data": {"asked": 3}}},
        echo=True,
    ),
    Row(
        "but not more often than is said",
        (asks(endpoint=f"{ECHO}/third/502", retryAttempts=1, retryDelay=0.01),),
        "trigger>a",
        status="error",
        error="status 502",
        echo=True,
    ),
    Row(
        "what can't pass is not tried again",
        (asks(endpoint=f"{ECHO}/third/400", retryAttempts=5, retryDelay=0.01),),
        "trigger>a",
        status="error",
        error="status 400",
        echo=True,
    ),
    Row(
        "a redirect is not followed",
        (asks(endpoint=f"{ECHO}/status/302"),),
        "trigger>a",
        status="error",
        error="status 302",
        echo=True,
    ),
    Row(
        "an address of this machine is refused, softly or not",
        (asks(endpoint="http://127.0.0.1:9/x", failOnError=False),),
        "trigger>a",
        status="error",
        error="not allowed",
    ),
    Row(
        "so is one that only looks public",
        (asks(endpoint="http://[::ffff:169.254.169.254]/latest"),),
        "trigger>a",
        status="error",
        error="not allowed",
    ),
    Row(
        "what is no URL",
        (asks(endpoint="file:///etc/passwd"),),
        "trigger>a",
        status="error",
        error="not a URL",
    ),
    Row("no URL at all", (asks(endpoint=""),), "trigger>a", status="error", error="URL is required"),
)
