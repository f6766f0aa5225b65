"""Consensus of several workflow runs, as the Coalition plugin names it: each run votes with the hash of
what it found, and who acts first requires that a quorum found the same.

The votes are in a BallotBox contract, one for each voter's wallet; this runner votes with its own. A step
that is run again finds its own transaction. Knows no workflow.
"""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from eth_abi.exceptions import EncodingError
from eth_utils.crypto import keccak

from services.chain import revert
from services.chain.artifacts import artifact
from services.chain.contract import Contract, NotAnswered
from services.chain.rpc import CallReverted, RpcRefused
from services.chain.sender import Sender
from services.keeper.runner.abi_values import ArgumentsInvalid, address
from services.keeper.runner.actions.chain_access import Chain, chain_of, patiently
from services.keeper.runner.actions.step import Means, Result, Step, failure
from services.keeper.runner.actions.web3_read import no_chain
from services.keeper.runner.actions.web3_write import sent, wanted
from services.keeper.runner.written import canonical

NO_VOTE = bytes(32)
MOST_VOTERS = 64


async def open_ballot(step: Step, means: Means) -> Result:
    """`{success, ballotId, voters, alreadyOpen}`: the same terms are the same ballot, so every run may open
    it.
    """

    async def work(chain: Chain, box: Contract) -> Result:
        voters = _voters(step.config.get("voters"))
        quorum, deadline = _whole(step, "quorum"), _whole(step, "deadlineUnix")
        if not voters or not len(voters) < 2 * quorum <= 2 * len(voters):
            raise ArgumentsInvalid(
                f"quorum: more than half of {len(voters)} voters, at most all; not {quorum}"
            )
        terms = (result_hash(step.config.get("topic")), voters, quorum, deadline)
        ballot_id = await _read(chain, box, "ballotIdOf", *terms)
        known = {"ballotId": "0x" + ballot_id.hex(), "voters": voters}
        if not await _sent_before(step, means) and await _is_open(chain, box, ballot_id):
            return {"success": True, **known, "alreadyOpen": True}
        done = await sent(step, means, lambda step: wanted(step, box.address, box.calldata("open", *terms)))
        return done if not done["success"] else {**done, **known, "alreadyOpen": False}

    return await _on(step, means, work)


async def cast_vote(step: Step, means: Means) -> Result:
    """`{success, resultHash, voter, alreadyVoted, reached, ...}`. The first vote of a wallet stands."""

    async def work(chain: Chain, box: Contract) -> Result:
        if means.sender is None:
            raise ArgumentsInvalid("this runner has no wallet to vote with")
        ballot_id, found = _ballot_id(step), result_hash(step.config.get("result"))
        voter = means.sender.key.address
        held = await _read(chain, box, "voteOf", ballot_id, voter)
        if held not in (NO_VOTE, found):
            raise ArgumentsInvalid(f"{voter} voted 0x{held.hex()} before; the first vote stands")
        done: Result = {"success": True}
        voted = held == found and not await _sent_before(step, means)
        if not voted:
            data = box.calldata("cast", ballot_id, found)
            done = await sent(step, means, lambda step: wanted(step, box.address, data))
        if not done["success"]:
            return done
        known = {"resultHash": "0x" + found.hex(), "voter": voter, "alreadyVoted": voted}
        return {**done, **known, **await _tallied(chain, box, ballot_id)}

    return await _on(step, means, work)


async def tally(step: Step, means: Means) -> Result:
    """`{success, reached, winningHash, votes, given, quorum, deadlineUnix, expired, missing, dissent}`."""

    async def work(chain: Chain, box: Contract) -> Result:
        ballot_id = _ballot_id(step)
        now = await _tallied(chain, box, ballot_id)
        missing, dissent = [], []
        for voter in await _read(chain, box, "votersOf", ballot_id):
            vote = await _read(chain, box, "voteOf", ballot_id, voter)
            if vote == NO_VOTE:
                missing.append(address(voter))
            elif now["reached"] and "0x" + vote.hex() != now["winningHash"]:
                dissent.append(address(voter))
        newest = await patiently(chain.rpc.block)
        expired = newest.timestamp > int(now["deadlineUnix"])
        return {"success": True, **now, "expired": expired, "missing": missing, "dissent": dissent}

    return await _on(step, means, work)


async def require_consensus(step: Step, means: Means) -> Result:
    """Fails closed: whatever is no consensus on exactly this result fails the step, and so the run."""

    async def work(chain: Chain, box: Contract) -> Result:
        found = "0x" + result_hash(step.config.get("result")).hex()
        now = await _tallied(chain, box, _ballot_id(step))
        if not now["reached"]:
            said = f"{now['votes']} of {now['quorum']} votes agree ({now['given']} given)"
            raise ArgumentsInvalid(f"no consensus: {said}")
        if now["winningHash"] != found:
            raise ArgumentsInvalid(f"the consensus is {now['winningHash']}, not {found}")
        return {"success": True, "resultHash": found, **now}

    return await _on(step, means, work)


def result_hash(found: Any) -> bytes:
    """0x and 64 hex digits stand for themselves; JSON objects and lists are hashed with their keys sorted,
    other text as it is. Raises ArgumentsInvalid.
    """
    if found is None or found == "":
        raise ArgumentsInvalid("the result is empty")
    if isinstance(found, str):
        plain = found.strip()
        try:
            if plain.startswith("0x") and len(plain) == 66:
                return bytes.fromhex(plain[2:])
            parsed = json.loads(found)
        except ValueError:
            parsed = None
        if not isinstance(parsed, dict | list):
            return bytes(keccak(text=found))
        found = parsed
    return bytes(keccak(text=canonical(found)))


async def _on(step: Step, means: Means, work: Callable[[Chain, Contract], Awaitable[Result]]) -> Result:
    chain = chain_of(step, means)
    if chain is None:
        return no_chain(step)
    try:
        box = Contract(artifact("BallotBox"), address(step.config.get("ballotBox")))
        return await work(chain, box)
    except CallReverted as refused:
        return failure(revert.named(refused.data), errorClass="contract_revert")
    except (ArgumentsInvalid, EncodingError, RpcRefused, NotAnswered) as wrong:
        return failure(str(wrong))


async def _read(chain: Chain, box: Contract, view: str, *arguments: object) -> Any:
    return await patiently(lambda: box.read(chain.rpc, view, *arguments))


async def _is_open(chain: Chain, box: Contract, ballot_id: bytes) -> bool:
    try:
        await _read(chain, box, "votersOf", ballot_id)
    except CallReverted as refused:
        if revert.named(refused.data).startswith("BallotUnknown("):
            return False
        raise
    return True


async def _sent_before(step: Step, means: Means) -> bool:
    """Whether the vote or the ballot that stands there may be this very step's."""
    sender: Sender | None = means.sender
    return step.again and sender is not None and await sender.known(step.key) is not None


async def _tallied(chain: Chain, box: Contract, ballot_id: bytes) -> Result:
    reached, winning, votes, given, quorum, deadline = await _read(chain, box, "tally", ballot_id)
    return {
        "reached": reached,
        "winningHash": "0x" + winning.hex(),
        "votes": str(votes),
        "given": str(given),
        "quorum": str(quorum),
        "deadlineUnix": str(deadline),
    }


def _voters(written: Any) -> list[str]:
    """Checksummed, ascending. Raises ArgumentsInvalid."""
    try:
        listed = json.loads(written) if isinstance(written, str) else written
    except ValueError as wrong:
        raise ArgumentsInvalid(f"voters is not JSON: {wrong}") from wrong
    if not isinstance(listed, list) or not 1 <= len(listed) <= MOST_VOTERS:
        raise ArgumentsInvalid(f"voters: a list of 1 to {MOST_VOTERS}")
    found = sorted({address(one) for one in listed}, key=lambda one: int(one, 16))
    if len(found) < len(listed):
        raise ArgumentsInvalid("voters: one stands there twice")
    return found


def _ballot_id(step: Step) -> bytes:
    said = step.said("ballotId")
    try:
        found = bytes.fromhex(said.removeprefix("0x"))
    except ValueError:
        found = b""
    if len(found) != 32 or not said.startswith("0x"):
        raise ArgumentsInvalid(f"ballotId: 0x and 64 hex digits, not {said}")
    return found


def _whole(step: Step, name: str) -> int:
    said = step.said(name)
    if not said.isdecimal() or not said.isascii() or len(said) > 19:
        raise ArgumentsInvalid(f"{name}: a whole number, not {said}")
    return int(said)
