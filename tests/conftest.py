"""Ends what a whole test session shares; knows no test."""

import pytest

from tests import postgres


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    postgres.stop_server()
