"""Random histories that the deciders allow: nodes join, pools form and change, sessions open, run and close.

Knows nothing of NATS or PostgreSQL; the same seed tells the same story.
"""

import hashlib
import random
from collections.abc import Iterator
from typing import Any

from ulid import ULID

from events import claim, node, payment, pool, session, slash, stream, workflow
from events.chain import ChainRef, EscrowTerms, Share
from events.envelope import DECIDERS, Cause, Commit, Recorded, decode_commit, encode_commit
from events.kernel import Rejected
from tests import slashing

START_UNIX_MS = 1_800_000_000_000
STRANGE_TEXTS = (
    "",
    "plain",
    "NUL\x00inside",
    "tab\tnew\nline\\N\\.",
    "ü💡\u2028",
    "'\";--",
    "{1,2}",
    "x" * 5000,
)
STRANGE_NUMBERS = (0, 1, 7, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1)


_FRESH = {"node": 0.3, "pool": 0.2, "session": 0.25, "slash": 0.15, "stream": 0.15, "workflow": 0.3}
"""How often a new aggregate begins."""


class Story:
    """`strange` makes free text and reported numbers hostile."""

    def __init__(self, seed: int, *, strange: bool = False) -> None:
        self._random = random.Random(seed)
        self._strange = strange
        self._states: dict[tuple[str, str], Any] = {}
        self._versions: dict[tuple[str, str], int] = {}
        self._now = START_UNIX_MS
        self._commands = 0

    def commits(self, count: int) -> Iterator[Commit]:
        """The next `count` commits; refused and empty commands are left out."""
        while count:
            commit = self._next()
            if commit is not None:
                count -= 1
                yield commit

    def recorded(self, count: int) -> list[Recorded]:
        """The next commits' events as they would stand in a log of their own, from sequence 1."""
        return [
            event
            for sequence, commit in enumerate(self.commits(count), 1)
            for event in decode_commit(
                commit.subject, sequence, {"Nats-Msg-Id": commit.commit_id}, commit.payload
            )
        ]

    def _next(self) -> Commit | None:
        self._now += self._random.randrange(1, 2000)
        self._commands += 1
        kind, aggregate_id, command = self._command()
        decider, key = DECIDERS[kind], (kind, aggregate_id)
        state = self._states.get(key, decider.initial)
        try:
            events = decider.decide(command, state)
        except Rejected:
            return None
        if not events:
            return None
        self._states[key] = decider.fold(events, state)
        version = self._versions.get(key, 0) + 1
        self._versions[key] = version + len(events) - 1
        command_id = f"{self._random.getrandbits(64):x}-{self._commands}"
        cause = Cause(command_id, f"correlation-{aggregate_id}", command_id, self._now)
        return encode_commit(kind, aggregate_id, version, events, cause)

    def _command(self) -> tuple[str, str, Any]:
        kinds = ("node", "pool", "session", "slash", "stream", "workflow")
        kind = self._random.choices(kinds, (2, 3, 8, 3, 4, 3))[0]
        known = [aggregate_id for other, aggregate_id in self._states if other == kind]
        fresh = not known or self._random.random() < _FRESH[kind]
        aggregate_id = self._id() if fresh else self._random.choice(known)
        make = {
            "node": self._node,
            "pool": self._pool,
            "session": self._session,
            "slash": self._slash,
            "stream": self._stream,
            "workflow": self._workflow,
        }[kind]
        return kind, aggregate_id, make(aggregate_id, fresh)

    def _node(self, node_id: str, fresh: bool) -> node.NodeCommand:
        if fresh:
            return node.Register(self._registered(node_id))
        memory, device = self._number(), self._text()
        options: tuple[node.NodeCommand, ...] = (
            node.ReportCapabilities(memory, self._random.random() * 900, device, "0.1.0"),
            node.Drain(self._text()),
            node.MarkLost(self._now - 5000),
            node.Recover(self._now),
            node.Recover(self._now),
            *((node.Retire(self._text()),) if self._random.random() < 0.1 else ()),
        )
        return self._random.choice(options)

    def _registered(self, node_id: str) -> node.Registered:
        return node.Registered(
            node_id=node_id,
            label=self._text(),
            mesh_key=self._hash(),
            nats_key="U" + self._hash()[:55].upper(),
            receipt_key="0x" + self._hash()[:40],
            seal_key=self._hash(),
            payout_wallet="0x" + self._hash()[:40],
            chain_id=31337,
            binding_digest=self._hash(),
            signatures={"mesh": self._hash()},
        )

    def _pool(self, pool_id: str, fresh: bool) -> pool.PoolCommand:
        if fresh:
            return pool.Propose(self._proposed())
        state = self._states["pool", pool_id]
        nodes = [aggregate_id for kind, aggregate_id in self._states if kind == "node"] or [self._id()]
        if isinstance(state, pool.Forming):
            plan = state.plan
            options: list[pool.PoolCommand] = [pool.AcceptMember(self._random.choice(nodes), self._hash())]
            if state.members:
                options.append(self._adopt(sorted(state.members), state.terms.num_layers))
            if plan is not None:
                shard = self._random.choice(plan.shards)
                digest = state.terms.weights_digest
                ready = pool.ConfirmShard(plan.epoch, shard.node_id, self._number(), digest)
                options += [ready] * 4
                options.append(pool.ReportShardFailed(plan.epoch, shard.node_id, self._text()))
            if self._random.random() < 0.05:
                options.append(pool.Retire(self._text()))
            return self._random.choice(options)
        return pool.Retire("again")

    def _proposed(self) -> pool.Proposed:
        return pool.Proposed(
            name=self._text(),
            model="story-model",
            revision="local",
            weights_digest=self._hash(),
            architecture="LlamaForCausalLM",
            num_layers=self._random.randrange(4, 40),
            layer_bytes=self._number(),
            embedding_bytes=self._number(),
            head_bytes=self._number(),
            dtype=self._random.choice(("float32", "bfloat16")),
            context_length=4096,
            kv_slots=4,
            price_wei_per_s=str(self._random.choice((0, 10**18, 10**77 + 1))),
            deterministic=self._random.random() < 0.5,
        )

    def _adopt(self, members: list[str], layers: int) -> pool.AdoptPlan:
        count = self._random.randrange(1, min(len(members), 4) + 1)
        edges = [0, *sorted(self._random.sample(range(1, layers), count - 1)), layers]
        units = [pool.TOTAL_UNITS // count] * count
        units[0] += pool.TOTAL_UNITS - sum(units)
        chosen = self._random.sample(members, count)
        shards = tuple(
            pool.Shard(node_id, self._hash(), edges[place], edges[place + 1], units[place])
            for place, node_id in enumerate(chosen)
        )
        return pool.AdoptPlan(shards, self._text())

    def _session(self, session_id: str, fresh: bool) -> session.SessionCommand:
        if fresh:
            close_by = self._now + self._random.choice((5_000, 10**9))
            opened = session.Opened(
                pool_id=self._known_or_new("pool"),
                payer=self._random.choice(("key:a", "key:b", self._text())),
                price_wei_per_s="0",
                single_request=self._random.random() < 0.3,
                close_by_unix_ms=close_by,
            )
            if self._random.random() < 0.4:
                return payment.VerifyPayment(self._verified(close_by))
            return session.Open(opened)
        state = self._states["session", session_id]
        if isinstance(state, payment.Paying):
            fails = payment.FailPayment(self._text())
            return self._random.choice((payment.ConfirmPayment(self._ref()), fails))
        if isinstance(state, session.Closed) and state.voucher is not None:
            return self._random.choice(self._money(state.voucher, state.settlement))
        if not isinstance(state, session.OpenSession):
            return session.Settle()
        options: list[session.SessionCommand] = [
            self._start(state),
            session.Settle(),
            session.Expire(self._now),
        ]
        for request_id, started in state.running.items():
            ended = session.GenerationEnded(
                request_id,
                self._random.choice(("stop", "length", "cancelled", "error")),
                started.prompt_tokens,
                self._number(),
                self._random.choice((None, self._hash())),
                self._random.choice((None, self._text())),
            )
            options += [session.EndGeneration(ended)] * 3
        if state.voucher is not None and self._random.random() < 0.5:
            options = self._money(state.voucher, state.settlement)
        return self._random.choice(options)

    def _start(self, state: session.OpenSession) -> session.StartRequest:
        started = session.RequestStarted(
            request_id=self._id(),
            epoch=1,
            entry_node_id=self._known_or_new("node"),
            seed=str(self._random.getrandbits(64)),
            prompt_commitment=self._hash(),
            prompt_tokens=self._number(),
            max_tokens=self._number(),
            deadline_unix_ms=self._now + 60_000,
        )
        return session.StartRequest(state.terms.payer, started, self._now)

    def _money(
        self, voucher: payment.PaymentVerified, settlement: ChainRef | None
    ) -> list[session.SessionCommand]:
        cap_wei = voucher.terms.cap_wei
        refund_wei = str(self._random.randrange(int(cap_wei) + 1))
        return [
            payment.RequestClose(self._random.choice(("payer", "single_request", "budget"))),
            payment.SettlePayment(cap_wei, refund_wei),
            payment.RevertPayment(settlement or self._ref()),
            payment.ConfirmPayment(self._ref()),
            payment.ConfirmPayment(self._ref()),
            payment.FailPayment(self._text()),
        ]

    def _verified(self, close_by_unix_ms: int) -> payment.PaymentVerified:
        terms, asset = self._terms(), "0x" + self._hash()[:40]
        many, single = self._random.randrange(1, 5), self._random.random() < 0.3
        return payment.PaymentVerified(asset, self._hash(), terms, many, single, close_by_unix_ms)

    def _terms(self) -> EscrowTerms:
        return EscrowTerms(
            pool_id=self._known_or_new("pool"),
            chain_id=31337,
            escrow="0x" + self._hash()[:40],
            payer="0x" + self._hash()[:40],
            rate_wei_per_s=str(10**12 * self._random.randrange(1, 100)),
            cap_wei=str(self._random.choice((10**18, 2 * 10**20, 10**70))),
        )

    def _ref(self) -> ChainRef:
        block, entry = self._random.randrange(10**6), self._random.randrange(9)
        return ChainRef(31337, block, "0x" + self._hash(), self._now // 1000, "0x" + self._hash(), entry)

    def _stream(self, stream_id: str, fresh: bool) -> stream.StreamCommand:
        if fresh:
            return stream.SetActive(self._terms(), 1, 1, self._now)
        state = self._states["stream", stream_id]
        if not isinstance(state, stream.Stream):
            return stream.SetActive(self._terms(), 1, 1, self._now)
        change = state.wanted.change
        options: list[stream.StreamCommand] = [
            stream.SetActive(state.terms, 1, self._random.randrange(3), self._now),
            stream.SetActive(state.terms, 2, self._random.randrange(3), self._now),
            stream.FailStart(change, self._text()),
            stream.MarkOverdue(change, self._now),
            *(stream.Observe(self._fact()) for _ in range(4)),
            *(stream.Revert(seen.at) for seen in state.seen[-1:]),
            *((stream.Close(state.terms, "payer", self._now),) if self._random.random() < 0.3 else ()),
        ]
        return self._random.choice(options)

    def _workflow(self, run_id: str, fresh: bool) -> workflow.WorkflowCommand:
        if fresh:
            asked = {"active": self._text(), "network": "31337"}
            step, attempt = self._text(), self._random.randrange(1, 9)
            kinds: tuple[workflow.SubjectKind, ...] = ("stream", "pool", "slash")
            kind = self._random.choice(kinds)
            return workflow.Request(
                workflow.Requested("stream-start", kind, self._known_or_new("stream"), step, attempt, asked)
            )
        count = self._random.randrange(3)
        sent = tuple(
            workflow.RunTransaction(self._text(), "0x" + self._hash(), 31337, number or None)
            for number in range(count)
        )
        options: tuple[workflow.WorkflowCommand, ...] = (
            workflow.Accept(workflow.Accepted("hosted", self._text())),
            workflow.MarkUnconfirmed(sent),
            workflow.End(workflow.Confirmed(sent)),
            workflow.End(workflow.Failed(self._text(), self._text(), self._random.random() < 0.5, sent)),
        )
        return self._random.choice(options)

    def _fact(self) -> stream.Fact:
        per_unit, at = self._random.randrange(10**15), self._ref()
        units = (6250, 3750)
        paid = tuple(Share("0x" + self._hash()[:40], each, str(each * per_unit)) for each in units)
        pool_address = "0x" + self._hash()[:40]
        return self._random.choice(
            (
                stream.Started(2, "5" + "0" * 13, 1, pool_address, self._now // 1000, paid, "0", at),
                stream.Stopped(paid, "0", False, "0", at),
                stream.Stopped(paid, "7", True, str(10**18), at),
                stream.Liquidated(paid, str(10**17), at),
                stream.Reconciled("stopped", 0, "0", 0, 0, paid, "0", "0", at),
                stream.Reconciled("running", 1, "5" + "0" * 13, 1, 9, (), "0", "0", at),
            )
        )

    def _slash(self, _: str, fresh: bool) -> slash.SlashCommand:
        if fresh:
            return slash.Report(slashing.reported(session_id=self._id(), reporter=self._text()))
        voter, at = self._random.randrange(1, 6), self._ref()
        said = (
            slashing.vote(voter)
            if self._random.random() < 0.8
            else slashing.dissent(voter, self._text()[:64])
        )
        paid = self._random.randrange(10**6)
        facts = (
            claim.ClaimOpened(1, paid, self._now // 1000, at),
            claim.Disputed(1, 5, self._now // 1000, at),
            claim.Upheld(1, paid % 2 == 0, at),
            claim.Executed(1, "0x" + self._hash()[:40], paid, 7, at),
            claim.Cancelled(1, at),
        )
        options: list[slash.SlashCommand] = [
            slash.AddProbes(slashing.probed(voter)),
            slash.AddEvidence(slashing.EVIDENCE),
            *(slash.CastVote(said, slashing.AT_MS) for _ in range(4)),
            slash.Expire(slashing.AT_MS + self._random.randrange(10**7)),
            slash.Observe(self._random.choice(facts)),
            slash.Revert(at),
        ]
        return self._random.choice(options)

    def _known_or_new(self, kind: str) -> str:
        known = [aggregate_id for other, aggregate_id in self._states if other == kind]
        return self._random.choice(known) if known else self._id()

    def _id(self) -> str:
        return str(ULID(self._random.randbytes(16))).lower()

    def _hash(self) -> str:
        return hashlib.sha256(self._random.randbytes(8)).hexdigest()

    def _text(self) -> str:
        if self._strange:
            return self._random.choice(STRANGE_TEXTS)
        return f"text {self._random.randrange(1000)}"

    def _number(self) -> int:
        return self._random.choice(STRANGE_NUMBERS) if self._strange else self._random.randrange(10**6)
