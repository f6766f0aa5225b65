"""What the gateway and the keeper ask the orchestrator to do, over NATS requests, and what it answers.

The gateway may append only session events; every other change of the log goes through here. The keeper may
append nothing of pools, and has a subject of its own on which it can tell what their coalitions' chain says,
and nothing else. Knows nothing of HTTP and decides nothing: the orchestrator hands each request to its
aggregate.
"""

import msgspec
from nats.aio.client import Client
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeout

from events import coalition, node, pool, slash, workflow
from events.chain import ChainRef

CONTROL_SUBJECT = "cp.control"
KEEPER_SUBJECT = "cp.control.keeper"


class _Ask(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="ask"):
    pass


class RegisterNode(_Ask, frozen=True, tag="register_node"):
    """Signatures already verified by the gateway."""

    registered: node.Registered


class DrainNode(_Ask, frozen=True, tag="drain_node"):
    node_id: str
    reason: str


class RetireNode(_Ask, frozen=True, tag="retire_node"):
    node_id: str
    reason: str


class ProposePool(_Ask, frozen=True, tag="propose_pool"):
    pool_id: str
    proposed: pool.Proposed


class AcceptMember(_Ask, frozen=True, tag="accept_member"):
    """Signature already verified by the gateway."""

    pool_id: str
    node_id: str
    signature: str


class PlanPool(_Ask, frozen=True, tag="plan_pool"):
    """Cut the model over the accepted, reachable members (or over `node_ids`, in that order) and load it."""

    pool_id: str
    node_ids: tuple[str, ...] = ()


class OpenCoalition(_Ask, frozen=True, tag="open_coalition"):
    """Already found on the chain by the gateway."""

    pool_id: str
    opened: pool.CoalitionOpened


class RequestRun(_Ask, frozen=True, tag="request_run"):
    """The keeper carries it out; the caller's command id is `events.ids.run_command_id(run_id)`."""

    run_id: str
    requested: workflow.Requested


class RetirePool(_Ask, frozen=True, tag="retire_pool"):
    pool_id: str
    reason: str


class TellSlash(_Ask, frozen=True, tag="tell_slash"):
    """Signatures and evidence already verified by the gateway; facts of the chain are not its to tell."""

    slash_id: str
    command: slash.Report | slash.AddProbes | slash.AddEvidence | slash.CastVote


class Ping(_Ask, frozen=True, tag="ping"):
    """Is an orchestrator there? Answers with the log sequence it has reacted up to."""


Ask = (
    Ping
    | RegisterNode
    | DrainNode
    | RetireNode
    | ProposePool
    | AcceptMember
    | PlanPool
    | OpenCoalition
    | RequestRun
    | RetirePool
    | TellSlash
)


class EndCoalition(_Ask, frozen=True, tag="end_coalition"):
    """Read on the chain by the keeper, with its confirmations."""

    pool_id: str
    ended: coalition.CoalitionEnded


class RevertCoalitionEnd(_Ask, frozen=True, tag="revert_coalition_end"):
    """The chain has the block at `at` no more."""

    pool_id: str
    at: ChainRef


KeeperAsk = EndCoalition | RevertCoalitionEnd


class Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`command_id` is the caller's idempotency key: the same id again has no second effect."""

    command_id: str
    correlation_id: str
    ask: Ask


class KeeperEnvelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """As `Envelope`, on the keeper's subject."""

    command_id: str
    correlation_id: str
    ask: KeeperAsk


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`sequence` is the log position that holds the effect (0: nothing to do). `error_code`: refused."""

    sequence: int = 0
    events: tuple[str, ...] = ()
    error_code: str | None = None
    detail: str = ""
    remedy: str = ""


class OrchestratorAway(Exception):
    """orchestrator_away: no orchestrator answered in time; see `computepool ps`, repeat with the same key."""

    code = "orchestrator_away"


_answers = msgspec.json.Decoder(Answer)


async def ask(
    client: Client, request: Ask, command_id: str, correlation_id: str, timeout_s: float = 10
) -> Answer:
    """Raises OrchestratorAway. A refusal is an Answer with `error_code`."""
    envelope = Envelope(command_id, correlation_id, request)
    return await _asked(client, CONTROL_SUBJECT, envelope, timeout_s)


async def tell(client: Client, fact: KeeperAsk, command_id: str, timeout_s: float = 10) -> Answer:
    """As `ask`, by the keeper."""
    envelope = KeeperEnvelope(command_id, command_id, fact)
    return await _asked(client, KEEPER_SUBJECT, envelope, timeout_s)


async def _asked(
    client: Client, subject: str, envelope: Envelope | KeeperEnvelope, timeout_s: float
) -> Answer:
    try:
        reply = await client.request(subject, msgspec.json.encode(envelope), timeout=timeout_s)
    except (NoRespondersError, NatsTimeout) as away:
        raise OrchestratorAway(OrchestratorAway.__doc__ or "") from away
    answer: Answer = _answers.decode(reply.data)
    return answer
