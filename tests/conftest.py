"""Ends what a whole test session shares, and lets no example fail for being slow; knows no test."""

import pytest
from hypothesis import settings

from tests import postgres

settings.register_profile("unhurried", deadline=None)  # a busy machine makes any example slow
settings.load_profile("unhurried")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    postgres.stop_server()
