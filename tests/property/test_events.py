"""Any sequence of commands: illegal states cannot be reached, and replaying the log gives the same state."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from events import breach, coalition, moves, node, payment, pool, session, slash, stream, workflow
from events.envelope import DECIDERS, decode_commit, encode_commit
from events.kernel import Rejected
from tests import money, slashing
from tests.aggregates import (
    cause,
    generation_ended,
    opened,
    proposed,
    registered,
    request_started,
    shard,
    ulid,
)

numbers = st.integers(1, 3)
epochs = st.integers(1, 4)
node_commands: st.SearchStrategy[Any] = st.one_of(
    numbers.map(lambda n: node.Register(registered(n))),
    numbers.map(lambda n: node.ReportCapabilities(n, float(n), "cpu", "1")),
    st.just(node.Drain("x")),
    numbers.map(node.MarkLost),
    numbers.map(node.Recover),
    st.just(node.Retire("x")),
)
PLANS = ((shard(1, 0, 8, 10_000),), (shard(1, 0, 4, 5000), shard(2, 4, 8, 5000)), (shard(1, 0, 3, 10_000),))
COALITION = "0x" + "c0" * 20
pool_commands: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from(["0", "5"]).map(lambda price: pool.Propose(proposed(price_wei_per_s=price))),
    numbers.map(lambda n: pool.AcceptMember(ulid(n), "sig")),
    st.sampled_from(PLANS).map(lambda shards: pool.AdoptPlan(shards, "why")),
    st.builds(
        pool.ConfirmShard,
        epoch=epochs,
        node_id=numbers.map(ulid),
        slice_bytes=st.just(1),
        weights_digest=st.sampled_from([proposed().weights_digest, "0" * 64]),
    ),
    st.builds(pool.ReportShardFailed, epoch=epochs, node_id=numbers.map(ulid), code=st.just("x")),
    st.builds(
        pool.ReplaceShard,
        node_id=numbers.map(ulid),
        successor_id=numbers.map(ulid),
        mesh_key=st.just("0" * 64),
    ),
    st.builds(pool.BlockDrain, node_id=numbers.map(ulid), code=st.just("x"), detail=st.just("y")),
    st.builds(
        pool.ReportDrained,
        epoch=epochs,
        node_id=numbers.map(ulid),
        moved_requests=st.just(1),
        kv_bytes=st.just(2),
    ),
    st.builds(
        lambda epoch, chain_epoch: pool.OpenCoalition(
            pool.CoalitionOpened(COALITION, 31337, epoch, chain_epoch, COALITION, money.ref(2 * chain_epoch))
        ),
        epochs,
        numbers,
    ),
    numbers.map(
        lambda n: coalition.EndCoalition(coalition.CoalitionEnded(COALITION, n, money.ref(2 * n + 1)))
    ),
    numbers.map(lambda n: coalition.RevertCoalitionEnd(money.ref(n))),
    st.just(pool.Retire("x")),
)
session_commands: st.SearchStrategy[Any] = st.one_of(
    st.booleans().map(lambda single: session.Open(opened(single_request=single, close_by_unix_ms=50))),
    st.builds(
        session.StartRequest,
        payer=st.sampled_from(["key:1", "key:2"]),
        started=numbers.map(request_started),
        at_unix_ms=st.integers(0, 60),
    ),
    st.builds(
        moves.ResumeRequest,
        resumed=st.builds(
            moves.RequestResumed,
            request_id=numbers.map(ulid),
            epoch=epochs,
            entry_node_id=numbers.map(ulid),
            completion_tokens=st.integers(0, 20),
        ),
    ),
    st.builds(
        moves.MoveKv,
        moved=st.builds(
            moves.KvMoved,
            request_id=numbers.map(ulid),
            epoch=epochs,
            from_node_id=numbers.map(ulid),
            to_node_id=numbers.map(ulid),
            tokens=st.just(1),
            kv_bytes=st.just(2),
            move_ms=st.just(3),
        ),
        reported_by=numbers.map(ulid),
    ),
    st.builds(
        session.EndGeneration,
        ended=numbers.map(generation_ended),
        reported_by=st.none() | numbers.map(ulid),
    ),
    st.just(session.Settle()),
    st.integers(0, 60).map(session.Expire),
    st.booleans().map(
        lambda single: payment.VerifyPayment(money.verified(single_request=single, close_by_unix_ms=50))
    ),
    st.builds(
        session.StartRequest,
        payer=st.just(money.PAYER),
        started=numbers.map(request_started),
        at_unix_ms=numbers,
    ),
    numbers.map(lambda n: payment.ConfirmPayment(money.ref(n))),
    numbers.map(lambda n: payment.RevertPayment(money.ref(n))),
    st.just(payment.FailPayment("x")),
    st.just(payment.RequestClose("payer")),
    st.just(payment.RequestClose("budget")),
    numbers.map(lambda n: payment.SettlePayment(str(money.CAP), str(n))),
)
facts: st.SearchStrategy[Any] = st.one_of(
    numbers.map(money.started),
    st.builds(money.stopped, numbers, numbers),
    st.builds(money.closed, numbers, numbers),
    numbers.map(lambda n: stream.Liquidated((), "5", money.ref(n))),
)
stream_commands: st.SearchStrategy[Any] = st.one_of(
    st.builds(
        stream.SetActive,
        terms=st.just(money.terms()),
        epoch=numbers,
        active=st.integers(0, 2),
        at_unix_ms=numbers,
    ),
    st.just(stream.Close(money.terms(), "payer", 1)),
    facts.map(stream.Observe),
    st.builds(stream.FailStart, change=numbers, code=st.just("x")),
    st.builds(stream.MarkOverdue, change=numbers, at_unix_ms=st.integers(5, 9)),
    numbers.map(lambda n: stream.Revert(money.ref(n))),
)
SENT = workflow.RunTransaction("open", "0x" + "ab" * 32, 31337)
workflow_commands = st.one_of(
    st.builds(
        lambda attempt, active: workflow.Request(
            workflow.Requested("stream-start", "stream", ulid(99), "1:open-1", attempt, {"active": active})
        ),
        numbers,
        st.sampled_from(("1", "2")),
    ),
    st.builds(lambda name: workflow.Accept(workflow.Accepted("embedded", name)), st.sampled_from("ab")),
    st.just(workflow.End(workflow.Confirmed((SENT,)))),
    st.just(workflow.End(workflow.Failed("nothing_left", "NothingLeft()", False, ()))),
    st.just(workflow.MarkUnconfirmed((SENT,))),
)
slash_commands: st.SearchStrategy[Any] = st.one_of(
    st.just(slash.Report(slashing.reported())),
    numbers.map(lambda n: slash.AddProbes(slashing.probed(n))),
    st.just(slash.AddEvidence(slashing.EVIDENCE)),
    st.builds(
        slash.CastVote,
        vote=st.one_of(
            st.integers(1, 5).map(slashing.vote),
            st.integers(1, 5).map(slashing.dissent),
            numbers.map(lambda n: slashing.vote(n, breach=slashing.breach(failed_probes=4))),
        ),
        at_unix_ms=st.sampled_from([slashing.AT_MS, 2 * slashing.AT_MS]),
    ),
    st.sampled_from([slashing.AT_MS, 2 * slashing.AT_MS]).map(slash.Expire),
    st.one_of(
        numbers.map(slashing.claimed), numbers.map(slashing.disputed), numbers.map(slashing.executed)
    ).map(slash.Observe),
    numbers.map(lambda n: slash.Revert(money.ref(n))),
)
COMMANDS = {
    "node": node_commands,
    "pool": pool_commands,
    "session": session_commands,
    "slash": slash_commands,
    "stream": stream_commands,
    "workflow": workflow_commands,
}


class Aggregates(RuleBasedStateMachine):
    """One aggregate of each kind, told everything in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.states = {kind: decider.initial for kind, decider in DECIDERS.items()}
        self.log: dict[str, list[Any]] = {kind: [] for kind in DECIDERS}

    @rule(data=st.data(), kind=st.sampled_from(sorted(COMMANDS)))
    def tell(self, data: st.DataObject, kind: str) -> None:
        command = data.draw(COMMANDS[kind])
        decider = DECIDERS[kind]
        try:
            events = decider.decide(command, self.states[kind])
        except Rejected:
            return
        if not events:
            return
        version = len(self.log[kind]) + 1
        commit = encode_commit(kind, ulid(99), version, events, cause(f"{kind} {version}"))
        recorded = decode_commit(commit.subject, 1, {"Nats-Msg-Id": commit.commit_id}, commit.payload)
        assert tuple(item.event for item in recorded) == events
        self.log[kind].extend(events)
        self.states[kind] = decider.fold(events, self.states[kind])
        self._again(decider, command, kind)

    def _again(self, decider: Any, command: Any, kind: str) -> None:
        """The same command at once again adds nothing, except a plan, which always is a new epoch."""
        try:
            repeated = decider.decide(command, self.states[kind])
        except Rejected:
            return
        assert repeated == () or isinstance(command, pool.AdoptPlan)

    @invariant()
    def replay_gives_the_same_state(self) -> None:
        for kind, decider in DECIDERS.items():
            assert decider.fold(self.log[kind]) == self.states[kind]

    @invariant()
    def a_serving_epoch_was_loaded_by_all_its_consenting_nodes(self) -> None:
        state = self.states["pool"]
        if not isinstance(state, pool.Forming) or state.serving is None:
            return
        plan = state.serving
        ready = {
            event.node_id
            for event in self.log["pool"]
            if isinstance(event, pool.ShardReady) and event.epoch == plan.epoch
        }
        assert ready == {item.node_id for item in plan.shards}
        assert ready <= state.members

    @invariant()
    def epochs_count_up_from_one(self) -> None:
        planned = [event.epoch for event in self.log["pool"] if isinstance(event, pool.Planned)]
        assert planned == list(range(1, len(planned) + 1))

    @invariant()
    def every_request_ends_at_most_once_and_before_the_session(self) -> None:
        started = [e.request_id for e in self.log["session"] if isinstance(e, session.RequestStarted)]
        ended = [e.request_id for e in self.log["session"] if isinstance(e, session.GenerationEnded)]
        assert len(set(started)) == len(started)
        assert len(set(ended)) == len(ended)
        assert set(ended) <= set(started)
        if isinstance(self.states["session"], session.Closed):
            assert set(ended) == set(started)
            if self.states["session"].voucher is None:
                assert isinstance(self.log["session"][-1], session.Settled | session.Expired)

    @invariant()
    def a_paid_request_stands_between_its_settlement_and_the_refund(self) -> None:
        paid = False
        for event in self.log["session"]:
            if isinstance(event, payment.PaymentSettled):
                paid = True
            elif isinstance(event, payment.PaymentReverted | payment.CloseRequested | session.Settled):
                paid = False
            elif isinstance(event, session.RequestStarted):
                voucher = any(isinstance(e, payment.PaymentVerified) for e in self.log["session"])
                assert paid or not voucher

    @invariant()
    def a_closed_escrow_is_asked_for_nothing(self) -> None:
        changes = [
            e for e in self.log["stream"] if isinstance(e, stream.StartRequested | stream.StopRequested)
        ]
        assert [event.change for event in changes] == list(range(1, len(changes) + 1))
        final = [event for event in changes if isinstance(event, stream.StopRequested) and event.final]
        assert final in ([], changes[-1:])
        keys = [e.at.key for e in self.log["stream"] if isinstance(e, stream.Fact)]
        taken = [e.at.key for e in self.log["stream"] if isinstance(e, stream.Reverted)]
        assert all(keys.count(key) - taken.count(key) in (0, 1) for key in keys)

    @invariant()
    def a_quorum_is_of_distinct_attestors_who_signed_the_same(self) -> None:
        votes = [e for e in self.log["slash"] if isinstance(e, breach.VoteCast)]
        assert len({vote.attestor for vote in votes}) == len(votes)
        for reached in (e for e in self.log["slash"] if isinstance(e, slash.QuorumReached)):
            assert len(reached.attestors) >= slashing.reported().quorum
            assert list(reached.attestors) == sorted(set(reached.attestors))
            signed = {vote.attestor: (vote.breach, vote.signature) for vote in votes}
            for attestor, signature in zip(reached.attestors, reached.votes, strict=True):
                assert signed[attestor] == (reached.breach, signature)


TestAggregates = Aggregates.TestCase
TestAggregates.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
