"""Small lies about a slash, each told in true books: in the log, on the chain, in the contract's views."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from events import slash
from events.claim import ClaimOpened, Executed
from events.envelope import Recorded
from services.auditor.chain_log import TOPICS, Raw
from services.auditor.money import ChainEvidence


@dataclass
class SlashBooks:
    """What an audit is given."""

    log: list[Recorded]
    evidence: ChainEvidence
    coalition: str
    payer: str

    def tell(self, kind: Any, edit: Callable[[Any], Any]) -> None:
        """The first event of this kind is another one, or (None) was never there."""
        place = next(n for n, item in enumerate(self.log) if isinstance(item.event, kind))
        event = edit(self.log[place].event)
        if event is None:
            del self.log[place]
        else:
            self.log[place] = msgspec.structs.replace(self.log[place], event=event)

    def show(self, change: Callable[[Raw], Raw | None]) -> None:
        """The chain's entries are others."""
        entries = tuple(found for raw in self.evidence.entries if (found := change(raw)) is not None)
        self.evidence = msgspec.structs.replace(self.evidence, entries=entries)


def changed(**values: Any) -> Callable[[Any], Any]:
    return lambda event: msgspec.structs.replace(event, **values)


def _forget(event: Any) -> None:
    return None


def _less(event: Executed) -> Executed:
    return msgspec.structs.replace(event, to_payer_micro=event.to_payer_micro - 1)


def _later(event: ClaimOpened) -> ClaimOpened:
    return msgspec.structs.replace(event, executable_at_unix_s=event.executable_at_unix_s + 1)


def _other_evidence(event: slash.QuorumReached) -> slash.QuorumReached:
    breach = msgspec.structs.replace(event.breach, evidence_hash="ab" * 32)
    return msgspec.structs.replace(event, breach=breach)


def _more_slashed(raw: Raw) -> Raw:
    if raw.topics[0] != TOPICS["Slashed"]:
        return raw
    rest = int.from_bytes(raw.data[32:], "big") + 1
    return msgspec.structs.replace(raw, data=raw.data[:32] + rest.to_bytes(32, "big"))


def _unpaid(books: SlashBooks) -> None:
    def change(raw: Raw) -> Raw | None:
        source = "0x" + raw.topics[1][12:].hex() if len(raw.topics) > 1 else ""
        return None if raw.topics[0] == TOPICS["Transfer"] and source == books.coalition.lower() else raw

    books.show(change)


def _bond(books: SlashBooks, micro: int) -> None:
    key = next(iter(books.evidence.bonds))
    bonds = {**books.evidence.bonds, key: books.evidence.bonds[key] + micro}
    books.evidence = msgspec.structs.replace(books.evidence, bonds=bonds)


def _poor(books: SlashBooks) -> None:
    balances = {key: value - 1 for key, value in books.evidence.balances.items()}
    books.evidence = msgspec.structs.replace(books.evidence, balances=balances)


LIES: dict[str, Callable[[SlashBooks], None]] = {
    "one micro-USDC less to the payer": lambda books: books.tell(Executed, _less),
    "another payer": lambda books: books.tell(Executed, changed(payer="0x" + "ee" * 20)),
    "a slash that the log forgot": lambda books: books.tell(Executed, _forget),
    "a claim that the log forgot": lambda books: books.tell(ClaimOpened, _forget),
    "one second of the dispute window": lambda books: books.tell(ClaimOpened, _later),
    "a breach that was never reported": lambda books: books.tell(slash.Reported, _forget),
    "other evidence": lambda books: books.tell(slash.QuorumReached, _other_evidence),
    "one micro-USDC more out of the bond": lambda books: books.show(_more_slashed),
    "a payout that never left": _unpaid,
    "one micro-USDC in a bond": lambda books: _bond(books, 1),
    "a coalition that holds too little": _poor,
}
