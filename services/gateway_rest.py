"""The gateway's REST as an operator's tool calls it: one client, one reading of refusals; no route."""

from typing import Any

import httpx


class GatewayRefused(Exception):
    """gateway_refused: the gateway refused a request; the message holds its code, detail and remedy."""

    code = "gateway_refused"

    def __init__(self, text: str, refusal: str = "") -> None:
        super().__init__(text)
        self.refusal = refusal
        """The gateway's own code, one of docs/errors.md."""


def client(gateway_url: str, token: str) -> httpx.AsyncClient:
    """With the bearer token, a time-out of 30 s, and no proxy from the environment."""
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.AsyncClient(base_url=gateway_url, headers=headers, timeout=30, trust_env=False)


def checked(response: httpx.Response) -> dict[str, Any]:
    """The JSON object of an answer. Raises GatewayRefused."""
    try:
        content = dict(response.json())
    except (ValueError, TypeError):
        content = {"detail": response.text[:200]}
    if response.is_error:
        code = content.get("code", f"http_{response.status_code}")
        said = " ".join(str(content[key]) for key in ("detail", "remedy") if content.get(key))
        raise GatewayRefused(f"{response.request.url.path}: {code}: {said}", str(code))
    return content
