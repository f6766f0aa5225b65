"""Which of KeeperHub's keys opens what; a key of the wrong kind is refused here, before it travels."""

import re
from typing import Literal
from urllib.parse import urlsplit

from pydantic import SecretStr

Kind = Literal["organisation", "webhook"]
PREFIXES: dict[Kind, str] = {"organisation": "kh_", "webhook": "wfb_"}
OPENS: dict[Kind, str] = {"organisation": "REST and MCP", "webhook": "POST /api/workflows/{id}/webhook alone"}
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
PRINTABLE = re.compile(r"[\x21-\x7e]+")
SECRET = re.compile(r"\b(kh_|wfb_|cpcb1\.)[\w.-]+")


class WrongKeyKind(Exception):
    """wrong_key_kind: another key is needed: kh_ opens KeeperHub's REST and MCP, wfb_ a webhook trigger."""

    code = "wrong_key_kind"


class UnsafeUrl(Exception):
    """keeperhub_url_unsafe: a key travels by https alone, or to this machine; set KEEPERHUB_URL."""

    code = "keeperhub_url_unsafe"


def kind_of(key: str) -> Kind | None:
    """None: not one of KeeperHub's."""
    return next((kind for kind, prefix in PREFIXES.items() if key.startswith(prefix)), None)


def require(key: SecretStr, wanted: Kind) -> SecretStr:
    """The key, or WrongKeyKind, which names the kinds and never the key."""
    if not PRINTABLE.fullmatch(key.get_secret_value()):
        raise WrongKeyKind("the key is empty, or holds a space or a line break")
    given = kind_of(key.get_secret_value())
    if given == wanted:
        return key
    what = "not a key of KeeperHub" if given is None else f"a {PREFIXES[given]} key, for {OPENS[given]}"
    raise WrongKeyKind(f"{what}; {OPENS[wanted]} needs one that begins with {PREFIXES[wanted]}")


def safe_url(url: str) -> str:
    """Without a slash at its end. Raises UnsafeUrl."""
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UnsafeUrl("KEEPERHUB_URL is scheme, host and path alone")
    if parts.hostname and (
        parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
    ):
        return url.rstrip("/")
    raise UnsafeUrl(f"{parts.scheme or 'no scheme'}://{parts.hostname or ''}")


def masked(text: str) -> str:
    """Without the keys and capabilities that an answer may quote."""
    return SECRET.sub(lambda found: f"{found[1]}[redacted]", text)
