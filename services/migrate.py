"""Brings the control tables to the newest revision: `python -m services.migrate`; knows no table itself."""

import io
from pathlib import Path

import structlog
from alembic import command
from alembic.config import Config

import migrations
from services.database import database_url, sqlalchemy_url
from services.logging import configure
from services.settings import Settings

log = structlog.get_logger("migrate")


def config_of(url: str | None) -> Config:
    """Alembic's configuration without an ini file; `url` is a postgresql:// URL (None: offline only)."""
    config = Config(stdout=io.StringIO())
    config.set_main_option("script_location", str(Path(migrations.__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    if url is not None:
        config.set_main_option("sqlalchemy.url", sqlalchemy_url(url).replace("%", "%%"))
    return config


def upgrade(url: str, revision: str = "head") -> None:
    """In one transaction; nothing to do is fine. Blocks: call it in a thread from async code."""
    command.upgrade(config_of(url), revision)


def downgrade(url: str, revision: str) -> None:
    """Back to `revision` ("base": nothing), in one transaction. Blocks."""
    command.downgrade(config_of(url), revision)


def main() -> None:
    settings = Settings()
    configure(settings.log_level)
    upgrade(database_url(settings))
    log.info("migrated")


if __name__ == "__main__":
    main()
