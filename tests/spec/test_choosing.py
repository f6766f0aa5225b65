"""Which backend the settings choose, and who is given its key."""

import pytest
from pydantic import SecretStr

from services.keeper.backend import WorkflowBackend
from services.keeper.choosing import backend_of
from services.keeper.hosted.backend import HostedBackend
from services.keeper.hosted.keys import UnsafeUrl, WrongKeyKind
from services.keeper.hosted.rest import Rest
from services.settings import Settings
from services.stack.node import worker_environment
from services.stack.stack import KEEPERHUB_KEY, environment_of

KEY = SecretStr("kh_the-organisation's")


def embedded() -> WorkflowBackend:
    """Any backend will do: it is handed back as it is."""
    return HostedBackend(Rest("http://127.0.0.1:1", KEY))


@pytest.mark.parametrize("key", [None, SecretStr("")])
def test_without_a_key_workflows_run_here(key: SecretStr | None) -> None:
    here = embedded()
    assert backend_of(Settings(keeperhub_api_key=key), here) is here


@pytest.mark.parametrize("transport", ["rest", "mcp"])
def test_with_a_key_they_run_at_keeperhub(transport: str) -> None:
    here = embedded()
    chosen = backend_of(Settings(keeperhub_api_key=KEY, keeperhub_transport=transport), here, 1)
    assert chosen is not here
    assert chosen.name == "hosted"


def test_a_key_that_opens_nothing_there_stops_the_start() -> None:
    with pytest.raises(WrongKeyKind):
        backend_of(Settings(keeperhub_api_key=SecretStr("wfb_mine")), embedded())
    with pytest.raises(UnsafeUrl):
        backend_of(Settings(keeperhub_api_key=KEY, keeperhub_url="http://keeperhub.example"), embedded())


def test_the_key_is_the_keepers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEEPERHUB_KEY, KEY.get_secret_value())
    settings = Settings()
    assert settings.keeperhub_api_key == KEY
    assert environment_of("keeper", settings)[KEEPERHUB_KEY] == KEY.get_secret_value()
    assert KEEPERHUB_KEY not in environment_of("gateway", settings)
    assert KEEPERHUB_KEY not in worker_environment()
    assert KEY.get_secret_value() not in repr(settings)
