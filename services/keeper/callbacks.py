"""What a run is told about calling back: where to, and a secret of its own. Knows no run's content."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from events.workflow import Requested
from services.keeper.capability import capability
from services.keeper.hook_secret import HookSecret
from services.keeper.runner.actions.step import Signing
from services.settings import Settings

PATH = "/webhooks/keeperhub"


@dataclass(frozen=True)
class Callbacks:
    """`url`: of the gateway's webhook."""

    url: str
    secret: HookSecret

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Raises HookSecretInvalid."""
        return cls(settings.public_url.rstrip("/") + PATH, HookSecret.of(settings))

    @property
    def signing(self) -> Signing:
        return Signing(self.url, self.secret.key_id, self.secret.key)

    def input(self, run_id: str, requested: Requested, at_unix_ms: int) -> Mapping[str, str]:
        """The same for the same run, however often it is executed."""
        given = capability(self.secret.key, run_id, requested.workflow, at_unix_ms)
        return {"callback_url": self.url, "callback_secret": given}
