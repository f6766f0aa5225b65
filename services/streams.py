"""The JetStream streams and their settings; knows nothing of who reads or writes them.

What is set here is what `docs/` promises: the event log can be neither deleted from nor purged, and never
ages.
"""

from nats.aio.client import Client
from nats.js.api import DiscardPolicy, RePublish, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import APIError, BadRequestError

from events.envelope import EVENTS_STREAM, SUBJECT_PREFIX
from services.stream_names import (
    CHECKPOINTS_STREAM,
    COMMITTED_PREFIX,
    DEAD_LETTERS_STREAM,
    RECEIPTS,
    RECEIPTS_STREAM,
)
from shard_runtime.messages import COMMANDS_STREAM, REPORTS_STREAM

DAY_S = 86_400.0
NAME_IN_USE = 10058
CHECKPOINTS_PER_SUBJECT = 1024
RECEIPTS_DAYS = 30
"""So long a payer can fetch the receipts of an answer; whoever may need them longer keeps a transcript."""


def configurations(replicas: int) -> tuple[StreamConfig, ...]:
    """Every stream. `replicas`: 1 on one server, 3 on a cluster of three."""
    return (
        StreamConfig(
            name=EVENTS_STREAM,
            subjects=[f"{SUBJECT_PREFIX}.>"],
            storage=StorageType.FILE,
            retention=RetentionPolicy.LIMITS,
            discard=DiscardPolicy.NEW,
            deny_delete=True,
            deny_purge=True,
            allow_rollup_hdrs=False,
            allow_direct=True,
            duplicate_window=300.0,
            num_replicas=replicas,
            republish=RePublish(src=f"{SUBJECT_PREFIX}.>", dest=f"{COMMITTED_PREFIX}.>", headers_only=True),
        ),
        StreamConfig(
            name=COMMANDS_STREAM,
            subjects=["cp.commands.>"],
            storage=StorageType.FILE,
            retention=RetentionPolicy.WORK_QUEUE,
            discard=DiscardPolicy.NEW,
            duplicate_window=600.0,
            num_replicas=replicas,
        ),
        StreamConfig(
            name=REPORTS_STREAM,
            subjects=["cp.reports.>"],
            storage=StorageType.FILE,
            max_age=7 * DAY_S,
            duplicate_window=600.0,
            num_replicas=replicas,
        ),
        StreamConfig(
            name=DEAD_LETTERS_STREAM,
            subjects=["cp.dlq.>"],
            storage=StorageType.FILE,
            max_age=30 * DAY_S,
            num_replicas=replicas,
        ),
        StreamConfig(
            name=CHECKPOINTS_STREAM,
            subjects=["cp.checkpoints.>"],
            storage=StorageType.FILE,
            allow_direct=True,
            max_msgs_per_subject=CHECKPOINTS_PER_SUBJECT,
            num_replicas=replicas,
        ),
        StreamConfig(
            name=RECEIPTS_STREAM,
            subjects=[f"{RECEIPTS}.*"],
            storage=StorageType.FILE,
            max_age=RECEIPTS_DAYS * DAY_S,
            allow_direct=True,
            max_msgs_per_subject=1,
            num_replicas=replicas,
        ),
    )


async def ensure_streams(client: Client, replicas: int) -> None:
    """Make what is missing, bring the rest to its settings; needs the role `admin`. Raises nats errors."""
    jetstream = client.jetstream()
    for wanted in configurations(replicas):
        try:
            await jetstream.add_stream(wanted)
        except BadRequestError as refused:
            if refused.err_code != NAME_IN_USE:
                raise
            await jetstream.update_stream(wanted)
        except APIError:
            raise
