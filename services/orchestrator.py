"""The orchestrator: runs the policies over the log, turns reports into commands, and answers `cp.control`.

One process, `python -m services.orchestrator`. Knows nothing of HTTP, of Postgres or of what an activation
looks like; every business rule it applies stands in `events`.
"""

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import Any

import msgspec
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import NotFoundError

from events import coalition, money_policies, node, pool, seating, slash, slash_policies, workflow
from events.envelope import Cause, Recorded, decode_commit
from events.kernel import Rejected
from events.planning import ModelDoesNotFit
from events.policies import AdmitNode, Dispatch, Do, ExpelNode, Reaction, liveness, overdue, react
from events.view import View
from services import bus, control, dispatch, reports
from services.access import AccessInvalid, NatsAccess, ReloadFailed
from services.handle import Handled, handle
from services.log import EventLog, LogUnavailable, Writer
from services.logging import configure
from services.receipts import taking
from services.settings import Settings
from services.until_stopped import STOP_WITHIN_S, until_stopped
from shard_runtime import messages

CURSOR_SUBJECT = "cp.checkpoints.orchestrator"
CURSOR_EVERY_S = 1.0
TICK_S = 0.5

log = structlog.get_logger("orchestrator")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass
class Orchestrator:
    """`view` is folded by the reader alone; every other task only looks at it."""

    client: Client
    events: EventLog
    access: NatsAccess
    view: View = field(default_factory=View)
    last_seen_unix_ms: dict[str, int] = field(default_factory=dict)
    caught_up: asyncio.Event = field(default_factory=asyncio.Event)
    moved: asyncio.Condition = field(default_factory=asyncio.Condition)
    reacted: int = 0
    """Sequence up to which every reaction has been carried out."""

    async def follow_log(self) -> None:
        """Fold every event; react to those after the cursor. A crash in between repeats reactions."""
        started = _now_ms()
        cursor = self.reacted = await self._load_cursor()
        head = await self.events.last_sequence()
        if head == 0:
            self._note_caught_up(0)
        async for message in self.events.read(0):
            for recorded in decode_commit(
                message.subject, message.sequence, message.headers, message.payload
            ):
                self.view.apply(recorded)
                if recorded.kind == "node":
                    self._note_presence(recorded, started)
                if message.sequence > cursor:
                    reactions = (*react(recorded, self.view), *money_policies.react(recorded, self.view))
                    await self._carry_out(recorded, (*reactions, *slash_policies.react(recorded, self.view)))
            self.reacted = message.sequence
            async with self.moved:
                self.moved.notify_all()
            if message.sequence >= head and not self.caught_up.is_set():
                self._note_caught_up(message.sequence)

    def _note_presence(self, recorded: Recorded, started_unix_ms: int) -> None:
        """Nodes count as seen when we began to listen; one lost before stays lost until it speaks."""
        if isinstance(recorded.event, node.Lost) and recorded.time_unix_ms < started_unix_ms:
            self.last_seen_unix_ms[recorded.aggregate_id] = recorded.event.last_seen_unix_ms
        else:
            seen = max(started_unix_ms, recorded.time_unix_ms)
            self.last_seen_unix_ms.setdefault(recorded.aggregate_id, seen)

    def _note_caught_up(self, sequence: int) -> None:
        self.caught_up.set()
        log.info("caught_up", sequence=sequence)

    async def _carry_out(self, cause: Recorded, reactions: tuple[Reaction, ...]) -> None:
        """In order, each until it is done: a server that is away for a while delays, it loses nothing."""
        for reaction in reactions:
            pause_s = 0.1
            while True:
                try:
                    await self._carry_out_one(cause, reaction)
                    break
                except AccessInvalid as refused:
                    log.error("reaction_refused", name=type(reaction).__name__, why=str(refused))
                    break
                except (NatsError, LogUnavailable, ReloadFailed, OSError) as away:
                    log.warning("reaction_delayed", name=type(reaction).__name__, why=repr(away))
                    await asyncio.sleep(pause_s)
                    pause_s = min(pause_s * 2, 5.0)

    async def _carry_out_one(self, cause: Recorded, reaction: Reaction) -> None:
        match reaction:
            case Do():
                await self.do(reaction, cause.correlation_id, cause.event_id)
            case Dispatch():
                message = dispatch.message_of(reaction)
                sequence = await dispatch.send(self.client, reaction.node_id, message)
                log.info("dispatched", node_id=reaction.node_id, name=reaction.name, sequence=sequence)
            case AdmitNode(node_id, nats_key):
                self.access.admit(node_id, nats_key)
                await self.access.reload()
                await dispatch.open_queue(self.client, node_id)
                log.info("node_admitted", node_id=node_id)
            case ExpelNode(node_id):
                self.access.expel(node_id)
                await self.access.reload()
                await dispatch.close_queue(self.client, node_id)
                log.info("node_expelled", node_id=node_id)

    async def do(self, reaction: Do, correlation_id: str, causation_id: str) -> Handled | None:
        """Hand a command to its aggregate; a refusal is logged and is final."""
        cause = Cause(reaction.command_id, correlation_id, causation_id, _now_ms())
        try:
            return await handle(self.events, reaction.kind, reaction.aggregate_id, reaction.command, cause)
        except Rejected as refused:
            log.warning(
                "refused",
                kind=reaction.kind,
                id=reaction.aggregate_id,
                command=type(reaction.command).__name__,
                code=refused.code,
            )
            return None

    async def take_reports(self) -> None:
        """Reports of nodes, at least once each, acknowledged when their event stands in the log."""
        await self.caught_up.wait()
        jetstream = self.client.jetstream()
        await jetstream.add_consumer(
            messages.REPORTS_STREAM,
            ConsumerConfig(durable_name="orchestrator", ack_policy=AckPolicy.EXPLICIT, ack_wait=30),
        )
        subscription = await jetstream.pull_subscribe_bind("orchestrator", stream=messages.REPORTS_STREAM)
        while True:
            try:
                batch = await subscription.fetch(64, timeout=5)
            except TimeoutError:
                continue
            except NatsError as away:
                log.warning("reports_delayed", why=repr(away))
                await asyncio.sleep(1)
                continue
            for message in batch:
                try:
                    await self._take_report(message)
                except (NatsError, LogUnavailable) as away:
                    log.warning("report_delayed", subject=message.subject, why=repr(away))

    async def _take_report(self, message: Msg) -> None:
        try:
            report = messages.decode_report(message.data)
            command = reports.command_of(message.subject, report, _now_ms())
        except (msgspec.DecodeError, reports.ReportForged) as broken:
            log.error("report_dropped", subject=message.subject, why=str(broken))
            await self._dead_letter(message)
            await message.term()
            return
        if isinstance(report, messages.GenerationEnded):
            taken = await taking.take(self.client, self.events, self.view, report)
            command = reports.ended_by(report, taken)
        if isinstance(report, messages.CommandRefused):
            log.error("command_refused", node_id=report.node_id, code=report.code, command=report.command_id)
        if command is not None:
            await self.do(command, command.aggregate_id, command.command_id)
        await message.ack()

    async def _dead_letter(self, message: Msg) -> None:
        """Keeps ids only: where the message stood, never what it said."""
        body = {"subject": message.subject, "stream_seq": message.metadata.sequence.stream}
        with contextlib.suppress(NatsError):
            await self.client.jetstream().publish("cp.dlq.reports", msgspec.json.encode(body))

    async def listen_for_heartbeats(self) -> None:
        async def seen(message: Msg) -> None:
            node_id = message.subject.rsplit(".", 1)[1]
            if node_id in self.view.nodes:
                self.last_seen_unix_ms[node_id] = _now_ms()

        await self.client.subscribe(messages.alive_subject("*"), cb=seen)

    async def tick(self) -> None:
        """What follows from the passing of time."""
        await self.caught_up.wait()
        saved, saved_at = 0, 0.0
        while True:
            await asyncio.sleep(TICK_S)
            now = _now_ms()
            found = (*liveness(self.view, self.last_seen_unix_ms, now), *overdue(self.view, now))
            found = (*found, *money_policies.overdue(self.view, now), *slash_policies.overdue(self.view, now))
            for reaction in found:
                try:
                    await self.do(reaction, reaction.aggregate_id, reaction.command_id)
                except (NatsError, LogUnavailable) as away:
                    log.warning("tick_delayed", kind=reaction.kind, why=repr(away))
            if self.reacted != saved and time.monotonic() - saved_at >= CURSOR_EVERY_S:
                await self._save_cursor()
                saved, saved_at = self.reacted, time.monotonic()

    async def serve_control(self) -> None:
        async def answer(message: Msg) -> None:
            await message.respond(msgspec.json.encode(await self._answer(message)))

        async def in_own_task(message: Msg) -> None:
            task = asyncio.create_task(answer(message))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

        await self.caught_up.wait()
        await self.client.subscribe(control.CONTROL_SUBJECT, queue="orchestrator", cb=in_own_task)
        await self.client.subscribe(control.KEEPER_SUBJECT, queue="orchestrator", cb=in_own_task)

    _answering: set["asyncio.Task[None]"] = field(default_factory=set)

    async def _answer(self, message: Msg) -> control.Answer:
        """What may be asked hangs on the subject, which is what the server lets a role publish on."""
        of_keeper = message.subject == control.KEEPER_SUBJECT
        try:
            request: control.Envelope | control.KeeperEnvelope = (
                msgspec.json.decode(message.data, type=control.KeeperEnvelope)
                if of_keeper
                else msgspec.json.decode(message.data, type=control.Envelope)
            )
            if isinstance(request.ask, control.Ping):
                return control.Answer(sequence=self.reacted)
            kind, aggregate_id, command = await self._command_of(request.ask)
            cause = Cause(request.command_id, request.correlation_id, request.command_id, _now_ms())
            handled = await handle(self.events, kind, aggregate_id, command, cause)
        except Rejected as refused:
            return control.Answer(error_code=refused.code, detail=str(refused), remedy=refused.remedy)
        except ModelDoesNotFit as refused:
            remedy = "Add nodes, or choose a smaller model."
            return control.Answer(error_code=refused.code, detail=str(refused), remedy=remedy)
        except msgspec.DecodeError as broken:
            return control.Answer(
                error_code="malformed_control", detail=str(broken), remedy="Upgrade the caller."
            )
        names = tuple(str(event.__struct_config__.tag) for event in handled.events)
        await self._wait_until_reacted(handled.sequence)
        return control.Answer(sequence=handled.sequence, events=names)

    async def _wait_until_reacted(self, sequence: int, timeout_s: float = 5) -> None:
        """So that an answered registration can connect at once; a slow reaction only means a later answer."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self.moved:
                await self.moved.wait_for(lambda: self.reacted >= sequence)

    async def _command_of(self, ask: control.Ask | control.KeeperAsk) -> tuple[str, str, Any]:
        match ask:
            case control.Ping():
                raise ValueError("a ping has no command")
            case control.RegisterNode(registered):
                return "node", registered.node_id, node.Register(registered)
            case control.DrainNode(node_id, reason):
                return "node", node_id, node.Drain(reason)
            case control.RetireNode(node_id, reason):
                return "node", node_id, node.Retire(reason)
            case control.ProposePool(pool_id, proposed):
                return "pool", pool_id, pool.Propose(proposed)
            case control.AcceptMember(pool_id, node_id, signature):
                return "pool", pool_id, pool.AcceptMember(node_id, signature)
            case control.OpenCoalition(pool_id, opened):
                return "pool", pool_id, pool.OpenCoalition(opened)
            case control.EndCoalition(pool_id, ended):
                return "pool", pool_id, coalition.EndCoalition(ended)
            case control.RevertCoalitionEnd(pool_id, at):
                return "pool", pool_id, coalition.RevertCoalitionEnd(at)
            case control.TellSlash(slash_id, command):
                if isinstance(command, slash.CastVote):
                    command = slash.CastVote(command.vote, _now_ms())
                return "slash", slash_id, command
            case control.RequestRun(run_id, requested):
                return "workflow", run_id, workflow.Request(requested)
            case control.RetirePool(pool_id, reason):
                return "pool", pool_id, pool.Retire(reason)
            case control.PlanPool(pool_id, node_ids):
                await self._wait_until_reacted(await self.events.last_sequence())
                return "pool", pool_id, seating.plan_of(self.view, pool_id, node_ids)

    async def _load_cursor(self) -> int:
        try:
            found = await self.client.jetstream().get_last_msg("CP_CHECKPOINTS", CURSOR_SUBJECT)
        except NotFoundError:
            return 0
        return int(found.data or b"0")

    async def _save_cursor(self) -> None:
        if not self.caught_up.is_set():
            return
        with contextlib.suppress(NatsError):
            await self.client.jetstream().publish(CURSOR_SUBJECT, str(self.reacted).encode())


async def _answer_forever(orchestrator: Orchestrator) -> None:
    await orchestrator.serve_control()
    log.info("ready")
    await asyncio.Event().wait()


async def run(settings: Settings) -> None:
    """Until SIGTERM or SIGINT, or until a task fails: then the process ends with its error."""
    client = await bus.connect(settings, "orchestrator")
    try:
        events = await EventLog.open(client, Writer.load(settings.seeds_dir / "orchestrator.nk"))
        orchestrator = Orchestrator(client, events, NatsAccess.of(settings))
        await orchestrator.listen_for_heartbeats()
        try:
            await until_stopped(
                orchestrator.follow_log(),
                orchestrator.take_reports(),
                orchestrator.tick(),
                _answer_forever(orchestrator),
            )
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_WITHIN_S):
                    await orchestrator._save_cursor()
    finally:
        await bus.close(client)
    log.info("stopped")


def main() -> None:
    settings = Settings()
    configure(settings.log_level)
    asyncio.run(run(settings))


if __name__ == "__main__":
    main()
