"""The control tables' migrations on a real PostgreSQL, and as SQL text without one."""

import psycopg
import pytest
from alembic import command

from services.database import DatabaseNotConfigured, sqlalchemy_url
from services.migrate import config_of, downgrade, upgrade
from tests.postgres import database

CONTROL_TABLES = {
    "alembic_version",
    "chain_transactions",
    "credentials",
    "idempotency_keys",
    "projection_generations",
    "registration_challenges",
    "runner_executions",
    "runner_nodes",
    "runner_state",
    "runner_workflows",
    "vouchers",
    "webhook_attempts",
    "webhook_deliveries",
    "seat_consents",
    "webhook_grants",
    "webhook_inbox",
    "webhook_tokens",
}


def tables_of(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    return {str(name) for (name,) in found}


async def test_up_down_and_up_again() -> None:
    async with database(template="template0") as url:
        assert tables_of(url) == set()
        upgrade(url)
        assert tables_of(url) == CONTROL_TABLES
        downgrade(url, "base")
        assert tables_of(url) == {"alembic_version"}
        upgrade(url)
        upgrade(url)
        assert tables_of(url) == CONTROL_TABLES


async def test_the_revisions_build_what_the_metadata_says() -> None:
    async with database() as url:
        command.check(config_of(url))


async def test_a_column_that_no_revision_makes_is_noticed() -> None:
    async with database() as url:
        with psycopg.connect(url) as connection:
            connection.execute("ALTER TABLE credentials ADD COLUMN stray text")
        with pytest.raises(Exception, match="stray"):
            command.check(config_of(url))


def test_offline_it_prints_the_sql() -> None:
    config = config_of(None)
    config.output_buffer = printed = config.stdout
    command.upgrade(config, "head", sql=True)
    text = printed.getvalue()  # type: ignore[attr-defined]
    assert "CREATE TABLE projection_generations" in text
    assert "COMMIT" in text


def test_another_databases_url_is_refused_without_showing_it() -> None:
    with pytest.raises(DatabaseNotConfigured) as refused:
        sqlalchemy_url("mysql://user:secret@host/db")
    assert "secret" not in str(refused.value)
