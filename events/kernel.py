"""The decider: how one aggregate decides and evolves; knows nothing of any particular aggregate, of storage
or of time.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Generic, TypeVar

import msgspec

S = TypeVar("S")
C = TypeVar("C")
E = TypeVar("E")

Wei = Annotated[
    str, msgspec.Meta(pattern=r"^(0|[1-9][0-9]{0,77})$", description="decimal string, smallest unit")
]
Hash = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$", description="32 bytes, lower-case hex")]
Ulid = Annotated[str, msgspec.Meta(pattern=r"^[0-7][0-9a-hjkmnp-tv-z]{25}$", description="lower-case ULID")]
Address = Annotated[str, msgspec.Meta(pattern=r"^0x[0-9a-fA-F]{40}$", description="EVM address")]


class Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """Base of every event class; the tag is the wire name, e.g. "session.opened.v1"."""


class Rejected(Exception):
    """A command was refused: a named fact with a stable `code` and a `remedy`. Subclasses say which."""

    code: ClassVar[str] = "rejected"
    remedy: ClassVar[str] = "Correct the command and send it again."

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail or (self.__doc__ or "").strip())


@dataclass(frozen=True)
class Decider(Generic[S, C, E]):
    """`decide` raises `Rejected` or returns events (none: nothing to do);
    `evolve` is total and never refuses.
    """

    initial: S
    decide: Callable[[C, S], tuple[E, ...]]
    evolve: Callable[[S, E], S]

    def fold(self, events: Iterable[E], state: S | None = None) -> S:
        """The state after `events`, from `state` or from the beginning."""
        current = self.initial if state is None else state
        for event in events:
            current = self.evolve(current, event)
        return current
