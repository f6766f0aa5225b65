"""Peers that sign receipts as the stages of one ring would, of bytes nobody computed. Knows no assertion."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from shard_runtime import messages
from shard_runtime.receipts import (
    NodeReceipts,
    SegmentHashes,
    Terms,
    Usage,
    hash_of,
    sign_receipt,
    sign_usage,
    token_bytes,
)
from shard_runtime.signing import ReceiptKey
from tests.contract.gateway_house import Peer, until

Signed = tuple[tuple[NodeReceipts, ...], Usage]
ANSWER = ("Once ", "upon ", "a time")
LONG, SPOILT, TWICE, MOVED = 9, 7, 6, 5
"""`max_tokens` by which a request asks for an answer that waits to be cancelled, for a last stage that signs
for another request, for a second report with other receipts, or for one that goes on at plan 2 (`moves`).
"""


def sign(
    stages: Sequence[tuple[str, ReceiptKey]],
    terms: Terms,
    session_id: str,
    request_id: str,
    attempt: int,
    prompt_ids: Sequence[int],
    completion_ids: Sequence[int],
    resumed: int = 0,
) -> Signed:
    """Of every stage (node id, key) in ring order, and the entry's account: a prefill, then single tokens.

    The first `resumed` of the completion are of an earlier attempt, whose KV nobody has.
    """
    nodes = []
    fresh, given = completion_ids[resumed:], len(prompt_ids) + resumed
    for node_id, key in stages:
        hashes = SegmentHashes()
        steps = [(0, given), *((given + n, 1) for n in range(len(fresh) - 1))]
        for (step, n), token in zip(steps, fresh, strict=True):
            hashes.add(step, n, token_bytes((step, n)), token_bytes((token,)))
        receipts = (sign_receipt(key, terms, request_id, attempt, one) for one in hashes.segments())
        nodes.append(NodeReceipts(node_id, tuple(receipts)))
    account = Usage(len(prompt_ids), len(completion_ids), resumed, 0, hash_of(nodes[0]), "0" * 130)
    return tuple(nodes), sign_usage(stages[0][1], terms, session_id, request_id, attempt, account)


@dataclass
class SigningRing:
    """A script for `peers`, which are in ring order; plan 2 leaves out the first."""

    peers: list[Peer] = field(default_factory=list)
    moves: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, peer: Peer, command: messages.Generate, content: messages.SealedContent) -> None:
        begun = len(content.resume_ids)
        first = begun == 0 and command.max_tokens in (LONG, MOVED)
        for index, text in enumerate(ANSWER[begun : 1 if first else None], begun):
            await peer.say(command, index, text, ids=(index,))
        if first and command.max_tokens == MOVED:
            await self.moves.wait()
            await peer.say(command, 1, "", moved_to=2)
            return
        if command.max_tokens == LONG:

            async def cancelled() -> bool:
                return any(one.request_id == command.request_id for one in peer.cancelled)

            await until(cancelled, within_s=60)
            await self._end(peer, command, content, 1, "cancelled")
            return
        await self._end(peer, command, content, len(ANSWER))

    async def _end(
        self,
        peer: Peer,
        command: messages.Generate,
        content: messages.SealedContent,
        tokens: int,
        finish_reason: messages.FinishReason = "stop",
    ) -> None:
        signed = self._signed(command, content, tokens)
        if signed is not None and command.max_tokens == SPOILT:
            other = self._signed(replace(command, request_id="0" * 26), content, tokens)
            assert other is not None
            signed = (*signed[0][:-1], other[0][-1]), signed[1]
        text = "".join(ANSWER[:tokens])
        report = await peer.end(command, content, text, tokens, finish_reason, signed=signed)
        if signed is not None and command.max_tokens == TWICE:
            await peer.report(report)
            await peer.report(replace(report, report_id=f"{report.report_id}-again", receipts=signed[0][:1]))

    def _signed(
        self, command: messages.Generate, content: messages.SealedContent, tokens: int
    ) -> Signed | None:
        if command.terms is None:
            return None
        ring = self.peers if command.epoch == 1 else self.peers[1:]
        stages = [(peer.node_id, ReceiptKey(bytes(peer.keys.receipt.key))) for peer in ring]
        return sign(
            stages,
            command.terms,
            command.session_id,
            command.request_id,
            command.epoch,
            content.prompt_ids,
            range(tokens),
            len(content.resume_ids),
        )
