"""Given-When-Then for any decider: what happened, one command, what must follow; knows no aggregate."""

from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

import pytest

from events.kernel import Decider, Rejected

S = TypeVar("S")
C = TypeVar("C")
E = TypeVar("E")


@dataclass(frozen=True)
class Scenario(Generic[S, C, E]):
    """`given(decider, *events).when(command)` then `.then(*events)` or `.refused(SomeRejected)`."""

    decider: Decider[S, C, E]
    happened: tuple[E, ...]
    command: C | None = None

    def when(self, command: C) -> Self:
        return type(self)(self.decider, self.happened, command)

    def _decide(self) -> tuple[E, ...]:
        assert self.command is not None, "when() is missing"
        return self.decider.decide(self.command, self.decider.fold(self.happened))

    def then(self, *events: E) -> S:
        """Exactly these events follow. Returns the state with them in it."""
        assert self._decide() == events
        return self.decider.fold((*self.happened, *events))

    def nothing(self) -> S:
        """The command is accepted and changes nothing."""
        return self.then()

    def refused(self, refusal: type[Rejected]) -> None:
        """The command is refused for exactly this reason, which has a code and a remedy of its own."""
        with pytest.raises(refusal) as caught:
            self._decide()
        assert caught.type is refusal
        assert caught.value.code != Rejected.code
        assert str(caught.value)
        assert caught.value.remedy


def given(decider: Decider[Any, Any, Any], *events: Any) -> Scenario[Any, Any, Any]:
    return Scenario(decider, events)
