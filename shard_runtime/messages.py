"""What a shard runtime is told and what it says: commands, reports, tokens, their subjects.

Knows nothing of torch, of the event log or of HTTP. Every message is one msgspec struct, JSON on the wire,
tagged by `kind`, strict about unknown fields; `decode_command` and `decode_report` are the only way in.
"""

import hashlib
from typing import Annotated, Literal

import msgspec

from shard_runtime.receipts import NodeReceipts, Terms, Usage

COMMANDS_STREAM = "CP_COMMANDS"
REPORTS_STREAM = "CP_REPORTS"

Dtype = Literal["float32", "bfloat16"]
FinishReason = Literal["stop", "length", "cancelled", "error"]


class _Wire(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    pass


class PlanMember(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One stage of the ring: decoder layers `[first_layer, end_layer)` on one node."""

    node_id: str
    mesh_key: str
    """ed25519 public key of the node on the mesh, 64 hex digits."""
    receipt_key: str
    """Address (0x, 40 hex digits) of the secp256k1 key that signs the node's frames, as registered."""
    first_layer: int
    end_layer: int


class Sampling(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How the exit picks a token. temperature 0 = greedy; top_k 0 and top_p 1 = off. `seed` is 64-bit."""

    seed: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    """Tell each token's log-probability, and those of so many likely tokens; None: tell nothing."""


class SealedContent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What only the entry node may read. Travels encrypted inside `Generate.sealed`."""

    prompt_ids: tuple[int, ...]
    nonce: str
    """32 random bytes, hex: blinds the commitments in the event log."""
    stop: tuple[str, ...] = ()
    resume_ids: tuple[int, ...] = ()
    """Tokens already given to the client by an earlier epoch; generation goes on after them."""


class LoadSlice(_Wire, frozen=True, tag="load_slice"):
    """Load your range of the model and join the ring `members` (in ring order, entry first) at `epoch`."""

    command_id: str
    pool_id: str
    epoch: int
    model: str
    """A directory of safetensors, or its name below the worker's model directories."""
    weights_digest: str
    """SHA-256 hex of the canonical weights manifest, see `shard_runtime.slices`."""
    dtype: Dtype
    members: tuple[PlanMember, ...]
    max_context: int
    """Tokens of prompt plus completion that one request may use."""
    kv_slots: int
    """Requests that may hold a KV cache at once."""


class UnloadSlice(_Wire, frozen=True, tag="unload_slice"):
    """Leave the pool's ring and free its weights and KV."""

    command_id: str
    pool_id: str
    epoch: int


class Generate(_Wire, frozen=True, tag="generate"):
    """Run one request; sent to the entry node only. `command_id` makes it idempotent."""

    command_id: str
    pool_id: str
    epoch: int
    session_id: str
    request_id: str
    sealed: str
    """`seal_for` of a `SealedContent` to the entry's seal key, with the request id as associated data."""
    sampling: Sampling
    max_tokens: int
    deadline_unix_ms: int
    """After this moment nobody waits for the answer: the command is obsolete."""
    terms: Terms | None = None
    """Of a paid request: every stage signs receipts of what it computes (docs/worker.md)."""


class Cancel(_Wire, frozen=True, tag="cancel"):
    """Stop a request and free its KV on every shard."""

    command_id: str
    pool_id: str
    epoch: int
    request_id: str
    reason: str
    """`RING_BROKEN` when a node is gone; otherwise for the log only."""


RING_BROKEN = ("node_lost", "node_retired")


class Drain(_Wire, frozen=True, tag="drain"):
    """Leave `epoch` for `to_epoch`: hand running requests over, or let them end; then unload the place."""

    command_id: str
    pool_id: str
    epoch: int
    to_epoch: int
    members: tuple[PlanMember, ...]
    """The ring of `to_epoch`. Who has exactly a leaver's layers there is its successor."""


class Adopt(_Wire, frozen=True, tag="adopt"):
    """Take in the KV that `leaver` sends for your layers at `epoch`; no other node's is taken."""

    command_id: str
    pool_id: str
    epoch: int
    leaver: PlanMember


Command = LoadSlice | UnloadSlice | Generate | Cancel | Drain | Adopt


class CapabilitiesMeasured(_Wire, frozen=True, tag="capabilities_measured"):
    """What a node can hold and how fast it computes, measured by itself at start."""

    report_id: str
    node_id: str
    memory_bytes: int
    matmul_gflops: float
    device: str
    runtime_version: str


class SliceLoaded(_Wire, frozen=True, tag="slice_loaded"):
    report_id: str
    node_id: str
    pool_id: str
    epoch: int
    first_layer: int
    end_layer: int
    weights_digest: str
    slice_bytes: int
    load_ms: int


class SliceFailed(_Wire, frozen=True, tag="slice_failed"):
    report_id: str
    node_id: str
    pool_id: str
    epoch: int
    code: str
    detail: str


class GenerationEnded(_Wire, frozen=True, tag="generation_ended"):
    """The entry's account of one request. `error_code` is set exactly when `finish_reason` is "error".

    `receipts` in ring order, of the stages that gave theirs in time; both are for the session's payer only.
    """

    report_id: str
    node_id: str
    pool_id: str
    epoch: int
    session_id: str
    request_id: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    output_commitment: str
    """`commitment(nonce, text of the completion)`."""
    prefill_ms: int
    decode_ms: int
    error_code: str | None = None
    receipts: tuple[NodeReceipts, ...] = ()
    usage: Usage | None = None


class NodeStopping(_Wire, frozen=True, tag="node_stopping"):
    """A worker's last word on a clean shutdown."""

    report_id: str
    node_id: str
    reason: str


class CommandRefused(_Wire, frozen=True, tag="command_refused"):
    """A command that can never be carried out was taken off CP_COMMANDS, where it stood at `stream_seq`.

    Ids only: never what it held. `command_id` is empty when the message was too broken to tell.
    """

    report_id: str
    node_id: str
    command_id: str
    code: str
    stream_seq: int


class KvMoved(_Wire, frozen=True, tag="kv_moved"):
    """A leaver's account of one request whose KV is whole at its successor, at the epoch it moved to."""

    report_id: str
    node_id: str
    pool_id: str
    epoch: int
    session_id: str
    request_id: str
    to_node_id: str
    tokens: int
    kv_bytes: int
    move_ms: int
    """From the stop at a token boundary to the successor's confirmation."""


class SliceDrained(_Wire, frozen=True, tag="slice_drained"):
    """A node has left `epoch`: nothing of it is loaded or held there any more."""

    report_id: str
    node_id: str
    pool_id: str
    epoch: int
    moved_requests: int
    kv_bytes: int


Loading = CapabilitiesMeasured | SliceLoaded | SliceFailed
Report = Loading | GenerationEnded | NodeStopping | CommandRefused | KvMoved | SliceDrained


class HopTiming(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One stage's share of the time of one request, medians over its steps, in milliseconds."""

    node_id: str
    compute_ms: float
    hop_in_ms: float


class LikelyToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A token that could have been picked; `spelled` is how it is written, maybe part of a character."""

    id: int
    logprob: float
    spelled: bytes


class TokenLogprob(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of one token: natural logarithms of the model's distribution, before temperature, top_k and top_p."""

    logprob: float
    likely: tuple[LikelyToken, ...] = ()
    """As many as were asked for, the most likely first; the token itself may be none of them."""


class Tokens(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Entry to gateway over core NATS: `ids` are tokens number `index`, `index + 1`, ... of the completion.

    `text` is the new text, whole UTF-8 only, so it may be empty. The last message has `finish_reason` (and
    the report's `receipts` and `usage`), or `moved_to`, and is sent again until the gateway answers
    (request-reply with the body b"ok") or three seconds have passed.
    When log-probabilities were asked for, `logprobs` has one for each of `ids`, and `spelled` what each of
    the next tokens not yet spelled gave to the text: b"" for one that gave nothing (special, or of a stop
    string), and only once all that it gave has been shown. Together they spell the text.
    """

    request_id: str
    epoch: int
    index: int
    ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason | None = None
    error_code: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    hops: tuple[HopTiming, ...] = ()
    prefill_ms: float = 0.0
    """At the entry, in the last message: from the command to the first token; `decode_ms`: to the last."""
    decode_ms: float = 0.0
    logprobs: tuple[TokenLogprob, ...] = ()
    spelled: tuple[bytes, ...] = ()
    moved_to: int | None = None
    """The request goes on at this epoch: send its entry a `Generate` with these ids as `resume_ids`."""
    receipts: tuple[NodeReceipts, ...] = ()
    usage: Usage | None = None


class Alive(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A node's heartbeat over core NATS, every `HEARTBEAT_SECONDS`."""

    node_id: str
    sent_unix_ms: int
    active_requests: int
    kv_slots_used: int
    pools: tuple[str, ...]
    """"<pool_id>:<epoch>" of every slice that is loaded and ready."""


HEARTBEAT_SECONDS = 1.0

_command: msgspec.json.Decoder[Command] = msgspec.json.Decoder(Command)
_report: msgspec.json.Decoder[Report] = msgspec.json.Decoder(Report)
encode = msgspec.json.encode


def decode_command(raw: bytes) -> Command:
    """Raises msgspec.ValidationError or msgspec.DecodeError on anything but a well-formed command."""
    return _command.decode(raw)


def decode_report(raw: bytes) -> Report:
    """Raises msgspec.ValidationError or msgspec.DecodeError on anything but a well-formed report."""
    return _report.decode(raw)


def kind_of(message: Command | Report) -> str:
    """The wire tag, e.g. "generate"."""
    return str(message.__struct_config__.tag)


def command_subject(node_id: str, kind: str) -> str:
    return f"cp.commands.{node_id}.{kind}"


def report_subject(node_id: str, kind: str) -> str:
    return f"cp.reports.{node_id}.{kind}"


def tokens_subject(node_id: str, request_id: str) -> str:
    return f"cp.tokens.{node_id}.{request_id}"


def alive_subject(node_id: str) -> str:
    return f"cp.alive.{node_id}"


def command_consumer(node_id: str) -> str:
    """Name of the durable pull consumer on CP_COMMANDS that the orchestrator makes for a node."""
    return f"node_{node_id}"


def inbox_prefix(role: str, member: str) -> str:
    """Every NATS user has an inbox of its own, so that nobody reads another's replies."""
    return f"_INBOX_{role}_{member}"


def commitment(nonce_hex: str, text: str) -> str:
    """SHA-256(nonce || UTF-8 text), hex: what the event log holds instead of a prompt or an answer."""
    return hashlib.sha256(bytes.fromhex(nonce_hex) + text.encode()).hexdigest()
