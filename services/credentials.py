"""Operator tokens and API keys: made once, shown once, kept as SHA-256; knows nothing of HTTP or of what
a key may do.

A token is 32 random bytes, so a plain hash of it is enough: there is nothing to guess and nothing to slow
down.
"""

import hashlib
import secrets
from dataclasses import dataclass, field
from typing import Literal

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from ulid import ULID

from services.database import sqlalchemy_url

Kind = Literal["operator", "api_key", "session"]
PREFIXES: dict[Kind, str] = {"operator": "cpo_", "api_key": "cp_"}


@dataclass(frozen=True)
class Principal:
    """Who sent a request: a credential's id and kind.

    A paid session's key is a credential too: its id is the session's, `account` is who paid.
    """

    id: str
    kind: Kind
    account: str = ""

    @property
    def is_operator(self) -> bool:
        return self.kind == "operator"

    @property
    def payer(self) -> str:
        """How session events spell this principal."""
        return self.account or f"key:{self.id}"


PASSING = "passing: "
"""How the label of a credential begins that a process made for itself and revokes at its end."""


@dataclass(frozen=True)
class Issued:
    """A new credential. `token` is nowhere else: it can't be shown again (and is not in the repr)."""

    id: str
    token: str = field(repr=False)


def engine_of(database_url: str) -> AsyncEngine:
    """An async engine on psycopg, for a postgresql:// URL."""
    return create_async_engine(sqlalchemy_url(database_url), pool_size=8, max_overflow=8, pool_pre_ping=True)


def hash_of(token: str) -> str:
    """What is stored of a token: SHA-256, hex."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


class Credentials:
    """The credentials table (Alembic owns it). Every method is one statement."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def create(self, kind: Kind, label: str) -> Issued:
        issued = Issued(str(ULID()).lower(), PREFIXES[kind] + secrets.token_urlsafe(32))
        statement = text(
            "INSERT INTO credentials (id, kind, label, hash, created_at)"
            " VALUES (:id, :kind, :label, :hash, now())"
        )
        values = {"id": issued.id, "kind": kind, "label": label, "hash": hash_of(issued.token)}
        async with self._engine.begin() as connection:
            await connection.execute(statement, values)
        return issued

    async def verify(self, token: str) -> Principal | None:
        """Whose token this is, or None when it is unknown or revoked."""
        if not token.startswith(tuple(PREFIXES.values())):
            return None
        statement = text("SELECT id, kind FROM credentials WHERE hash = :hash AND revoked_at IS NULL")
        async with self._engine.connect() as connection:
            row = (await connection.execute(statement, {"hash": hash_of(token)})).first()
        return None if row is None else Principal(row.id, row.kind)

    async def revoke(self, credential_id: str, kind: Kind) -> bool:
        """False when there is no credential of that kind with this id. Revoking twice is the same as once."""
        statement = text(
            "UPDATE credentials SET revoked_at = coalesce(revoked_at, now()) WHERE id = :id AND kind = :kind"
        )
        async with self._engine.begin() as connection:
            done = await connection.execute(statement, {"id": credential_id, "kind": kind})
        return bool(done.rowcount)

    async def any_of(self, kind: Kind) -> bool:
        """Whether a credential of this kind is in force that somebody was shown: a passing one was not."""
        statement = text(
            "SELECT 1 FROM credentials WHERE kind = :kind AND revoked_at IS NULL"
            " AND NOT starts_with(label, :passing) LIMIT 1"
        )
        async with self._engine.connect() as connection:
            found = await connection.execute(statement, {"kind": kind, "passing": PASSING})
            return found.first() is not None


async def create(database_url: str, kind: Kind, label: str) -> tuple[str, str]:
    """(id, token) of a new credential, on a connection of its own: for the CLI and the first start."""
    engine = engine_of(database_url)
    try:
        issued = await Credentials(engine).create(kind, label)
    finally:
        await engine.dispose()
    return issued.id, issued.token


async def exists(database_url: str, kind: Kind) -> bool:
    """`Credentials.any_of` on a connection of its own."""
    engine = engine_of(database_url)
    try:
        return await Credentials(engine).any_of(kind)
    finally:
        await engine.dispose()
