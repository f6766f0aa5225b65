"""Commands to nodes: how a reaction becomes a message on a node's work queue, and the queue's consumers.

Knows nothing of why a command is sent.
"""

from nats.aio.client import Client
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import NotFoundError

from events import pool
from events.policies import Dispatch
from shard_runtime import messages

ACK_WAIT_SECONDS = 30
MAX_DELIVERIES = 20


def message_of(dispatch: Dispatch) -> messages.Command:
    """The wire command of a reaction."""
    plan, terms = dispatch.plan, dispatch.terms
    match dispatch.name:
        case "load_slice":
            return messages.LoadSlice(
                command_id=dispatch.command_id,
                pool_id=dispatch.pool_id,
                epoch=plan.epoch,
                model=terms.model,
                weights_digest=terms.weights_digest,
                dtype=terms.dtype,
                members=_members(plan, dispatch.receipt_keys),
                max_context=terms.context_length,
                kv_slots=terms.kv_slots,
            )
        case "unload_slice":
            return messages.UnloadSlice(dispatch.command_id, dispatch.pool_id, plan.epoch)
        case "cancel":
            return messages.Cancel(
                dispatch.command_id, dispatch.pool_id, plan.epoch, dispatch.request_id, dispatch.reason
            )
        case "drain":
            later = _other(dispatch)
            return messages.Drain(
                dispatch.command_id,
                dispatch.pool_id,
                plan.epoch,
                later.epoch,
                _members(later, dispatch.receipt_keys),
            )
        case "adopt":
            [mine] = [shard for shard in plan.shards if shard.node_id == dispatch.node_id]
            [leaver] = [
                member
                for member in _members(_other(dispatch), dispatch.receipt_keys)
                if (member.first_layer, member.end_layer) == (mine.first_layer, mine.end_layer)
            ]
            return messages.Adopt(dispatch.command_id, dispatch.pool_id, plan.epoch, leaver)


def _members(plan: pool.Planned, receipt_keys: tuple[str, ...]) -> tuple[messages.PlanMember, ...]:
    return tuple(
        messages.PlanMember(shard.node_id, shard.mesh_key, key, shard.first_layer, shard.end_layer)
        for shard, key in zip(plan.shards, receipt_keys, strict=True)
    )


def _other(dispatch: Dispatch) -> pool.Planned:
    if dispatch.other is None:
        raise ValueError(f"{dispatch.name} needs two plans")
    return dispatch.other


async def send(client: Client, node_id: str, command: messages.Command) -> int:
    """Put a command on a node's queue; the same command id within the server's window is stored once.

    Returns its sequence in CP_COMMANDS. Raises nats.errors.Error when JetStream does not confirm it.
    """
    subject = messages.command_subject(node_id, messages.kind_of(command))
    ack = await client.jetstream().publish(
        subject,
        messages.encode(command),
        headers={"Nats-Msg-Id": command.command_id},
        stream=messages.COMMANDS_STREAM,
    )
    return int(ack.seq)


async def open_queue(client: Client, node_id: str) -> None:
    """Make the node's durable consumer, the only one that it may pull from; repeating it changes nothing."""
    await client.jetstream().add_consumer(
        messages.COMMANDS_STREAM,
        ConsumerConfig(
            durable_name=messages.command_consumer(node_id),
            filter_subject=f"cp.commands.{node_id}.>",
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=ACK_WAIT_SECONDS,
            max_deliver=MAX_DELIVERIES,
            max_ack_pending=256,
        ),
    )


async def close_queue(client: Client, node_id: str) -> None:
    """Remove the node's consumer, if it is there."""
    try:
        await client.jetstream().delete_consumer(messages.COMMANDS_STREAM, messages.command_consumer(node_id))
    except NotFoundError:
        return
