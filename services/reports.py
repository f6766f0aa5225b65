"""What a node says, turned into the command it amounts to; decides nothing and appends nothing."""

import re

from events import moves, node, pool, session
from events.policies import Do
from services.receipts.taking import Taken
from shard_runtime import messages

_NODE_ID = re.compile(r"^cp\.reports\.([0-9a-z]{26})\.[a-z_]+$")


class ReportForged(Exception):
    """report_forged: a report speaks for another node than the subject it was published on."""

    code = "report_forged"


def command_of(subject: str, report: messages.Report, at_unix_ms: int) -> Do | None:
    """The command for a report, or None when there is nothing to decide. Raises ReportForged."""
    spoken_by = _NODE_ID.match(subject)
    if spoken_by is None or spoken_by[1] != report.node_id:
        raise ReportForged(f"{report.node_id} on {subject}")
    match report:
        case messages.CapabilitiesMeasured():
            measured = node.ReportCapabilities(
                report.memory_bytes, report.matmul_gflops, report.device, report.runtime_version
            )
            return Do("node", report.node_id, measured, report.report_id)
        case messages.SliceLoaded():
            confirm = pool.ConfirmShard(
                report.epoch, report.node_id, report.slice_bytes, report.weights_digest
            )
            return Do("pool", report.pool_id, confirm, report.report_id)
        case messages.SliceFailed():
            failed = pool.ReportShardFailed(report.epoch, report.node_id, report.code)
            return Do("pool", report.pool_id, failed, report.report_id)
        case messages.GenerationEnded():
            return ended_by(report, Taken())
        case messages.KvMoved():
            moved = moves.KvMoved(
                report.request_id,
                report.epoch,
                report.node_id,
                report.to_node_id,
                report.tokens,
                report.kv_bytes,
                report.move_ms,
            )
            return Do("session", report.session_id, moves.MoveKv(moved, report.node_id), report.report_id)
        case messages.SliceDrained():
            drained = pool.ReportDrained(report.epoch, report.node_id, report.moved_requests, report.kv_bytes)
            return Do("pool", report.pool_id, drained, report.report_id)
        case messages.NodeStopping():
            return Do("node", report.node_id, node.MarkLost(at_unix_ms), report.report_id)
        case messages.CommandRefused():
            return None


def ended_by(report: messages.GenerationEnded, taken: Taken) -> Do:
    """`taken`: what is kept of the report's receipts."""
    ended = session.GenerationEnded(
        report.request_id,
        report.finish_reason,
        report.prompt_tokens,
        report.completion_tokens,
        report.output_commitment or None,
        report.error_code,
        taken.root,
        taken.missing,
    )
    command = session.EndGeneration(ended, reported_by=report.node_id)
    return Do("session", report.session_id, command, report.report_id)
