"""A small world in which money moves: a chain that reorganises, a sender and a watcher, and the real rules.

Deciders, policies, view and projections are the product's own; only the chain, the network and the clock are
modelled, in integers, with every fault drawn from one seed. Knows no NATS, PostgreSQL or real chain.
"""

import random
from dataclasses import dataclass, field, replace
from typing import Any

from events import money_policies, payment, policies, session, stream
from events.chain import ChainRef, Share
from events.envelope import DECIDERS, Recorded
from events.ids import commit_id, event_id
from events.kernel import Rejected
from events.policies import Do
from events.view import View
from tests.aggregates import digest, request_started, ulid
from tests.money import GDA_POOL, OPERATORS, PAYER, RATE, terms, verified

UNITS = (6250, 3750)
START_S = 1_700_000_000
MARGIN_S = 60
CLOSE_BY_S = 600
CAP = 200 * RATE
"""Little enough that some sessions run into their budget."""


@dataclass
class Escrow:
    """The contract's storage. `spent` is what operators have for good; the running stream comes on top."""

    funded: bool = False
    active: int = 0
    since_s: int = 0
    spent: int = 0
    refund: int = 0
    closed: bool = False

    def rate(self) -> int:
        return RATE * self.active

    def hard_stop_s(self) -> int:
        return self.since_s + (CAP - self.spent) // self.rate() - MARGIN_S


@dataclass(frozen=True)
class Entry:
    """One entry of the chain's log. `change` names the effect that caused it; "" is somebody else's."""

    at: ChainRef
    session_id: str
    cause: str
    active: int
    paid: int
    refund: int
    closed: bool
    hard_stop_s: int
    funding: bool = False


@dataclass(frozen=True)
class Block:
    number: int
    block_hash: str
    unix_s: int
    escrows: dict[str, Escrow]
    entries: tuple[Entry, ...]
    txs: tuple[str, ...]
    failed: frozenset[str] = frozenset()


class Chain:
    """Blocks with a snapshot each, so that a reorg is a cut."""

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw
        self.blocks = [Block(0, self._hash(), START_S, {}, (), ())]
        self.mempool: dict[str, tuple[str, str, int]] = {}
        """tx -> (session, "fund" | "set" | "close", active)."""
        self.known: dict[str, tuple[str, str, int]] = {}

    @property
    def head(self) -> Block:
        return self.blocks[-1]

    def _hash(self) -> str:
        return f"0x{self._draw.getrandbits(256):064x}"

    def mine(self, seconds: int) -> None:
        """One block with all that waits, in order of arrival; then anyone closes what has run out."""
        head = self.head
        escrows = {key: replace(escrow) for key, escrow in head.escrows.items()}
        number, block_hash, now = head.number + 1, self._hash(), head.unix_s + seconds
        entries: list[Entry] = []
        failed: set[str] = set()
        for tx, (session_id, kind, active) in self.mempool.items():
            at = ChainRef(31337, number, block_hash, now, tx, len(entries))
            entry = self._run(escrows.setdefault(session_id, Escrow()), session_id, kind, active, at, tx)
            if entry is not None:
                entries.append(entry)
            else:
                failed.add(tx)
        for session_id, escrow in escrows.items():
            if escrow.active and now >= escrow.hard_stop_s():
                tx = self._hash()
                at = ChainRef(31337, number, block_hash, now, tx, len(entries))
                entry = self._run(escrow, session_id, "close", 0, at, "")
                assert entry is not None
                entries.append(entry)
        done = tuple(self.mempool)
        self.mempool = {}
        self.blocks.append(Block(number, block_hash, now, escrows, tuple(entries), done, frozenset(failed)))

    def _run(
        self, escrow: Escrow, session_id: str, kind: str, active: int, at: ChainRef, cause: str
    ) -> Entry | None:
        """None: the transaction reverted."""
        if kind == "fund":
            if escrow.funded:
                return None
            escrow.funded = True
            return Entry(at, session_id, cause, 0, 0, 0, False, 0, funding=True)
        if not escrow.funded or escrow.closed or (kind == "set" and active == escrow.active):
            return None
        paid = escrow.rate() * (at.block_unix_s - escrow.since_s)
        escrow.spent += paid
        escrow.active, escrow.since_s = (active if kind == "set" else 0), at.block_unix_s
        if escrow.active and escrow.hard_stop_s() <= at.block_unix_s:
            escrow.active = 0
        assert escrow.spent <= CAP, "the public close came too late"
        if kind == "close":
            escrow.closed, escrow.refund = True, CAP - escrow.spent
        stop = escrow.hard_stop_s() if escrow.active else 0
        refund = escrow.refund if kind == "close" else 0
        return Entry(at, session_id, cause, escrow.active, paid, refund, escrow.closed, stop)

    def reorg(self, depth: int, keep: float) -> None:
        """The last blocks vanish; each of their transactions is mined again later, or (1 - keep) lost."""
        depth = min(depth, len(self.blocks) - 1)
        for block in self.blocks[len(self.blocks) - depth :]:
            for tx in block.txs:
                if self._draw.random() < keep and tx in self.known:
                    self.mempool.setdefault(tx, self.known[tx])
        if depth:
            del self.blocks[-depth:]

    def entries(self, confirmations: int) -> list[Entry]:
        upto = len(self.blocks) - confirmations
        return [entry for block in self.blocks[:upto] for entry in block.entries]

    def send(self, tx: str, session_id: str, kind: str, active: int) -> None:
        self.known[tx] = (session_id, kind, active)
        if not any(tx in block.txs for block in self.blocks):
            self.mempool.setdefault(tx, (session_id, kind, active))


@dataclass
class World:
    """One schedule's state. What survives a crash: the log, the cursor, the chain, the sender's journal."""

    seed: int
    sessions: int = 2
    log: list[Recorded] = field(default_factory=list)
    journal: dict[tuple[str, str], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.draw = random.Random(self.seed)
        self.chain = Chain(self.draw)
        self.rpc_down = False
        self.cursor = 0
        self.reacted = 0
        self.view = View()
        self.states: dict[tuple[str, str], Any] = {}
        self.done: dict[str, int] = {}
        self.requests = 0
        self.reverts: dict[str, int] = {}
        self.ids = [ulid(600 + n) for n in range(self.sessions)]
        for n, session_id in enumerate(self.ids):
            single = self.draw.random() < 0.3
            voucher = verified(
                nonce=digest(n),
                terms=terms(escrow=f"0x{n + 0xE5C:040x}", cap_wei=str(CAP)),
                single_request=single,
                close_by_unix_ms=(START_S + CLOSE_BY_S) * 1000,
            )
            self.handle("session", session_id, payment.VerifyPayment(voucher), f"verify:{session_id}")

    @property
    def now_ms(self) -> int:
        return self.chain.head.unix_s * 1000

    def handle(self, kind: str, aggregate_id: str, command: Any, command_id: str) -> None:
        """As `services.handle`: once per command id; a refusal appends nothing."""
        if command_id in self.done:
            return
        decider, key = DECIDERS[kind], (kind, aggregate_id)
        state = self.states.get(key, decider.initial)
        try:
            events = decider.decide(command, state)
        except Rejected:
            return
        if not events:
            return
        self.states[key] = decider.fold(events, state)
        self.done[command_id] = sequence = len(self.done) + 1
        commit = commit_id(command_id)
        for index, event in enumerate(events):
            if isinstance(event, stream.Reverted | payment.PaymentReverted):
                self.reverts[aggregate_id] = self.reverts.get(aggregate_id, 0) + 1
            tag = str(event.__struct_config__.tag)
            self.log.append(
                Recorded(
                    sequence, index, kind, aggregate_id, 0, event_id(commit, index), commit, command_id, tag,
                    self.now_ms, "", "", "", event,
                )
            )  # fmt: skip

    def orchestrate(self) -> None:
        """Fold and react to all that is new; reacting appends, so until nothing is."""
        while self.reacted < len(self.log):
            recorded = self.log[self.reacted]
            self.view.apply(recorded)
            self.reacted += 1
            if self.reacted > self.cursor:
                for reaction in (
                    *policies.react(recorded, self.view),
                    *money_policies.react(recorded, self.view),
                ):
                    if isinstance(reaction, Do):
                        self.handle(
                            reaction.kind, reaction.aggregate_id, reaction.command, reaction.command_id
                        )

    def tick(self) -> None:
        found = (*policies.overdue(self.view, self.now_ms), *money_policies.overdue(self.view, self.now_ms))
        for reaction in found:
            self.handle(reaction.kind, reaction.aggregate_id, reaction.command, reaction.command_id)

    def crash(self) -> None:
        """The orchestrator begins again; its cursor may be older than what it had done."""
        self.cursor = self.draw.randrange(self.cursor, max(self.reacted, self.cursor) + 1)
        self.view, self.reacted = View(), 0

    def send_due(self) -> None:
        """The durable sender: a signed transaction is kept before it is sent; one that failed is replaced."""
        if self.rpc_down:
            return
        waiting = [(session_id, "fund", "fund", 0) for session_id in self.unfunded()]
        for session_id, state in money_policies.due(self.view):
            kind = "close" if state.wanted.final else "set"
            waiting.append((session_id, str(state.wanted.change), kind, state.wanted.active))
        for session_id, attempt, kind, active in waiting:
            tx = self.journal.get((session_id, attempt), "")
            if not tx or any(tx in block.failed for block in self.chain.blocks):
                tx = self.journal[session_id, attempt] = f"0x{self.draw.getrandbits(256):064x}"
            if self.draw.random() < 0.2:
                continue
            self.chain.send(tx, session_id, kind, active)
            if self.draw.random() < 0.1:
                return

    def unfunded(self) -> list[str]:
        """Vouchers that are not settled (any more): the facilitator keeps them until they are."""
        sessions = {key: self.states["session", key] for key in self.ids}
        return [key for key, state in sessions.items() if getattr(state, "settlement", None) is None]

    def watch(self, *, duplicate: bool = False, partial: bool = False) -> None:
        """Tell the log what the chain shows now and what it shows no longer; some of it late, some twice."""
        if self.rpc_down:
            return
        entries = self.chain.entries(self.draw.choice((0, 1)))
        there = {entry.at.key for entry in self.chain.entries(0)}
        self._take_back(there)
        self.draw.shuffle(entries)
        for entry in entries * (2 if duplicate else 1):
            if partial and self.draw.random() < 0.5:
                continue
            known = f"{entry.at.key}:{self._reverts(entry.session_id)}"
            if entry.funding:
                command: Any = payment.ConfirmPayment(entry.at)
                self.handle("session", entry.session_id, command, f"paid:{known}")
            else:
                observe = stream.Observe(_fact_of(entry))
                self.handle("stream", entry.session_id, observe, f"saw:{known}")

    def _reverts(self, session_id: str) -> int:
        """A fact that was taken back and stands again is told under another name."""
        return self.reverts.get(session_id, 0)

    def _take_back(self, there: set[str]) -> None:
        for (kind, key), state in list(self.states.items()):
            n = self._reverts(key)
            if kind == "stream":
                for seen in state.seen:
                    if seen.at.key not in there:
                        self.handle("stream", key, stream.Revert(seen.at), f"gone:{seen.at.key}:{n}")
                continue
            at = getattr(state, "settlement", None)
            if at is not None and at.key not in there:
                self.handle("session", key, payment.RevertPayment(at), f"unpaid:{at.key}:{n}")

    def start(self, session_id: str) -> None:
        self.requests += 1
        started = request_started(self.requests, deadline_unix_ms=self.now_ms + 20_000)
        command = session.StartRequest(PAYER, started, self.now_ms)
        self.handle("session", session_id, command, f"start:{self.requests}")

    def end(self, session_id: str, reason: session.FinishReason) -> None:
        state = self.states["session", session_id]
        if isinstance(state, session.OpenSession) and state.running:
            request_id = self.draw.choice(sorted(state.running))
            ended = session.GenerationEnded(request_id, reason, 5, 3, None)
            self.handle("session", session_id, session.EndGeneration(ended), f"end:{request_id}")


def _fact_of(entry: Entry) -> stream.Fact:
    per_unit = entry.paid // sum(UNITS)
    paid = tuple(
        Share(account, units, str(units * per_unit))
        for account, units in zip(OPERATORS, UNITS, strict=True)
        if entry.paid
    )
    if entry.active:
        rate = str(RATE * entry.active)
        return stream.Started(entry.active, rate, 1, GDA_POOL, entry.hard_stop_s, paid, "0", entry.at)
    if entry.cause:
        return stream.Stopped(paid, "0", entry.closed, str(entry.refund), entry.at)
    found: Any = "closed" if entry.closed else "stopped"
    return stream.Reconciled(found, 0, "0", 0, 0, paid, "0", str(entry.refund), entry.at)
