"""Ends what a whole test session shares, and says which examples are tried; knows no test."""

import pytest
from hypothesis import settings

from tests import postgres

settings.register_profile("search", deadline=None, derandomize=False)  # a busy machine makes any example slow
settings.register_profile("same", settings.get_profile("search"), derandomize=True)
settings.load_profile("same")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    postgres.stop_server()
