"""What the JetStream streams and their subjects are called, besides those that a worker knows too."""

from events.envelope import EVENTS_STREAM
from shard_runtime.messages import COMMANDS_STREAM, REPORTS_STREAM

CHECKPOINTS_STREAM = "CP_CHECKPOINTS"
DEAD_LETTERS_STREAM = "CP_DLQ"
RECEIPTS_STREAM = "CP_RECEIPTS"
"""What nodes signed of paid requests, for their payers alone: no node and no reader comes near it."""
RECEIPTS = "cp.receipts"
COMMITTED_PREFIX = "cp.committed"
"""The server republishes the headers of every stored commit here: a doorbell for readers."""

STREAMS = (
    EVENTS_STREAM,
    COMMANDS_STREAM,
    REPORTS_STREAM,
    DEAD_LETTERS_STREAM,
    CHECKPOINTS_STREAM,
    RECEIPTS_STREAM,
)
