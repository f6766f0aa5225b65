"""GET /docs: the OpenAPI description as one self-contained page, each route with a curl line; nothing is
fetched.

Knows nothing of any single route: everything on it comes from `/openapi.json`.
"""

import json
from html import escape
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

router = APIRouter(include_in_schema=False)

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1a1d21}
body{background:#fff}
h2{margin-top:2.5rem;border-bottom:1px solid #d5dae0}
summary{cursor:pointer;padding:.4rem 0}code,pre{font:14px/1.45 ui-monospace,monospace}
pre{background:#f3f5f7;padding:.8rem;overflow-x:auto;border-radius:6px}
.m{display:inline-block;min-width:4.5rem;font-weight:700}table{border-collapse:collapse}
td,th{text-align:left;padding:.15rem .8rem .15rem 0;vertical-align:top}
@media(prefers-color-scheme:dark){body{background:#14171a;color:#e6e8ea}pre{background:#20252a}h2{border-color:#333a41}}
"""


@router.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    spec = request.app.openapi()
    html = page(spec, str(request.base_url).rstrip("/"))
    policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"
    return HTMLResponse(html, headers={"content-security-policy": policy})


def page(spec: dict[str, Any], base_url: str) -> str:
    """The whole page. `base_url` without a slash at its end."""
    rooms: dict[str, list[str]] = {}
    for path, methods in spec["paths"].items():
        for method, operation in methods.items():
            room = (operation.get("tags") or ["Other"])[0]
            rooms.setdefault(room, []).append(_operation(spec, base_url, path, method, operation))
    body = "".join(f"<h2>{escape(room)}</h2>{''.join(items)}" for room, items in rooms.items())
    info = spec["info"]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(info["title"])} API</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{_STYLE}</style><h1>{escape(info['title'])} API {escape(info['version'])}</h1>"
        f"<p>{escape(info.get('summary', ''))}. <a href='openapi.json'>openapi.json</a>. "
        "Put your key into <code>$KEY</code> (an API key, or the operator token where it is needed).</p>"
        f"<pre>{escape(_PYTHON.format(base=base_url))}</pre>{body}</html>"
    )


_PYTHON = """from openai import OpenAI
client = OpenAI(base_url="{base}/v1", api_key=KEY)
for chunk in client.chat.completions.create(
    model="tales", stream=True, messages=[{{"role": "user", "content": "Tell me a story."}}]
):
    print(chunk.choices[0].delta.content or "", end="")"""


def _operation(spec: dict[str, Any], base: str, path: str, method: str, operation: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(item['name'])}</code><td>{escape(item['in'])}"
        f"<td>{escape(item.get('description') or '')}</tr>"
        for item in operation.get("parameters", [])
    )
    table = f"<table><tr><th>parameter<th>in<th></tr>{rows}</table>" if rows else ""
    text = escape(operation.get("description") or "")
    curl = escape(curl_line(spec, base, path, method, operation))
    return (
        f"<details><summary><span class=m>{method.upper()}</span> <code>{escape(path)}</code> "
        f"{escape(operation.get('summary') or '')}</summary><p>{text}</p>{table}<pre>{curl}</pre></details>"
    )


def curl_line(spec: dict[str, Any], base: str, path: str, method: str, operation: dict[str, Any]) -> str:
    """A command that works once `$KEY` and the ids in capitals are filled in."""
    for name in [item["name"] for item in operation.get("parameters", []) if item["in"] == "path"]:
        path = path.replace("{" + name + "}", "$" + name.upper()).replace("{" + name + ":path}", "$MODEL")
    parts = [f'curl "{base}{path}"' if method == "get" else f'curl -X {method.upper()} "{base}{path}"']
    if operation.get("security"):
        parts.append('-H "Authorization: Bearer $KEY"')
    content = (operation.get("requestBody") or {}).get("content", {}).get("application/json")
    if content is not None:
        example = json.dumps(example_of(spec, content["schema"]))
        parts.append("-H 'content-type: application/json' -d '" + example + "'")
    return " \\\n  ".join(parts)


def example_of(spec: dict[str, Any], schema: dict[str, Any], required_only: bool = True) -> Any:
    """A body of this shape: the schema's own example, else its required fields by type."""
    if "$ref" in schema:
        return example_of(spec, spec["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]])
    if "example" in schema:
        return schema["example"]
    if "anyOf" in schema:
        return example_of(spec, schema["anyOf"][0])
    match schema.get("type"):
        case "object":
            wanted = schema.get("required", []) if required_only else schema.get("properties", {})
            return {name: example_of(spec, schema["properties"][name]) for name in wanted}
        case "array":
            return [example_of(spec, schema.get("items", {}))]
        case "integer" | "number":
            return schema.get("minimum", 1)
        case "boolean":
            return False
        case _:
            return (schema.get("enum") or ["..."])[0]
