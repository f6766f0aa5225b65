"""One attestor at work: looks for breaches that name it, probes, judges what evidence there is, and votes.

Talks to a gateway's REST without any token: its signature is all it has. Remembers nothing: what it has said
already stands in the log.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import msgspec
import structlog
from eth_account.signers.local import LocalAccount
from msgspec.structs import replace

from events.evidence import Dissent, Probe, Statement, canonical
from events.probing import moments
from events.slash import Reported
from services.typed_data import sign_typed
from services.verifier.answers import is_answer_of
from services.verifier.attesting import statement_typed
from services.verifier.probing import Clock, Found, probe
from services.verifier.recomputing import NotRecomputed
from services.verifier.voting import UNSIGNED, judged, vote_on
from shard_runtime.probes import ProbeAsked

POLL_S = 1.0
STATE_AGAIN_POLLS = 10
PAGE = 200
PROBED = ("no_show", "stall")

log = structlog.get_logger("verifier")


class GatewayAway(Exception):
    """gateway_away: the gateway does not answer, or not now; it is asked again."""

    code = "gateway_away"


class SaidNo(Exception):
    """said_no: the gateway refused what this attestor sent, for good; the message has its code and detail."""

    code = "said_no"


class Verifier:
    """`rest` speaks to the gateway; `clock` is the attestor's own; `models`: directories of models."""

    def __init__(
        self, key: LocalAccount, rest: httpx.AsyncClient, clock: Clock, models: Sequence[Path] = ()
    ) -> None:
        self._key, self._rest, self._clock, self._models = key, rest, clock, models
        self._attending: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                try:
                    rows = (await self._get(f"/slashes?limit={PAGE}"))["items"]
                except (GatewayAway, SaidNo) as away:
                    log.warning("delayed", why=str(away))
                    rows = []
                for row in rows:
                    if row["state"] in ("reported", "proven") and row["slash_id"] not in self._attending:
                        task = asyncio.create_task(self._attend(row["slash_id"]))
                        self._attending[row["slash_id"]] = task
                for task in self._attending.values():
                    if task.done():
                        task.result()
                await asyncio.sleep(POLL_S)
        finally:
            for task in self._attending.values():
                task.cancel()
            await asyncio.gather(*self._attending.values(), return_exceptions=True)

    async def _attend(self, slash_id: str) -> None:
        try:
            await self._attest(slash_id)
        except SaidNo as refused:
            log.warning("refused", slash_id=slash_id, why=str(refused))

    async def _attest(self, slash_id: str) -> None:
        shown = await self._patiently(f"/slashes/{slash_id}")
        case = msgspec.convert(shown["report"], Reported)
        me = self._key.address.lower()
        named = me in {attestor.lower() for attestor in case.attestors} and me != case.operator.lower()
        if not named or any(vote["attestor"].lower() == me for vote in shown["votes"]):
            return
        own: tuple[Probe, ...] | Found = "unknown"
        if case.kind in PROBED and shown["evidence_hash"] is None and me not in shown["statements"]:
            own = await self._probe(slash_id, case)
            log.info("probed", slash_id=slash_id, node_id=case.node_id, found=_said(own))
            if not isinstance(own, str):
                await self._state(slash_id, case, own)
        evidence_hash = await self._evidence_of(slash_id, case, own)
        if evidence_hash is not None:
            await self._vote(slash_id, case, evidence_hash, own)

    async def _probe(self, slash_id: str, case: Reported) -> tuple[Probe, ...] | Found:
        """Again from the beginning when the gateway could not be asked, while the window holds a schedule."""

        async def ask(nonce: str, sent_unix_ms: int, within_ms: int) -> bool | None:
            asked = ProbeAsked(nonce, self._key.address, sent_unix_ms)
            body = {**msgspec.to_builtins(asked), "within_ms": within_ms}
            try:
                answer = await self._post(f"/slashes/{slash_id}/probes", body)
            except (GatewayAway, SaidNo):
                return None
            return is_answer_of(case.receipt_key, case.node_id, asked, answer["signature"])

        found: tuple[Probe, ...] | Found = "unknown"
        while found == "unknown" and moments(case, self._clock.now_ms()):
            found = await probe(case, self._clock, ask)
            if found == "unknown":
                await asyncio.sleep(POLL_S)
        return found

    async def _state(self, slash_id: str, case: Reported, probes: tuple[Probe, ...]) -> None:
        said = Statement(slash_id, case.node_id, self._key.address, probes, UNSIGNED)
        said = replace(said, signature=sign_typed(self._key, statement_typed(case, said)))
        await self._send(case, f"/slashes/{slash_id}/statements", canonical(said))

    async def _evidence_of(self, slash_id: str, case: Reported, own: tuple[Probe, ...] | Found) -> str | None:
        """None when the time for votes is over before there is any.

        What was stated is said again now and then: whoever assembles the evidence may have lost it.
        """
        polls = 0
        while self._clock.now_ms() // 1000 <= case.votes_until_unix_s:
            shown = await self._patiently(f"/slashes/{slash_id}")
            if shown["evidence_hash"] is not None:
                return str(shown["evidence_hash"])
            if shown["stage"] != "reported":
                return None
            polls += 1
            if polls % STATE_AGAIN_POLLS == 0 and not isinstance(own, str):
                await self._state(slash_id, case, own)
            await asyncio.sleep(POLL_S)
        return None

    async def _vote(
        self, slash_id: str, case: Reported, evidence_hash: str, own: tuple[Probe, ...] | Found
    ) -> None:
        body = await self._body_of(evidence_hash)
        try:
            left_s = case.votes_until_unix_s - self._clock.now_ms() / 1000
            async with asyncio.timeout(max(0.0, left_s)):
                found = await judged(body, evidence_hash, slash_id, case, self._models)
        except (NotRecomputed, TimeoutError) as failed:
            log.warning("abstained", slash_id=slash_id, kind=case.kind, why=str(failed) or "votes_closed")
            return
        if own == "answered" and found != Dissent("evidence_altered"):
            found = Dissent("answered_me")
        vote = vote_on(self._key, slash_id, case, evidence_hash, found)
        await self._send(case, f"/slashes/{slash_id}/votes", msgspec.json.encode(vote))
        log.info("voted", slash_id=slash_id, verdict=vote.verdict, reason=vote.reason)

    async def _body_of(self, evidence_hash: str) -> bytes:
        while True:
            try:
                answer = await self._rest.get(f"/evidence/{evidence_hash}")
            except httpx.TransportError:
                await asyncio.sleep(POLL_S)
                continue
            if answer.status_code < 500:
                return answer.content
            await asyncio.sleep(POLL_S)

    async def _send(self, case: Reported, path: str, body: bytes) -> None:
        """Until it is taken, refused, or too late. Raises SaidNo."""
        while self._clock.now_ms() // 1000 <= case.votes_until_unix_s:
            try:
                await self._post(path, body)
                return
            except GatewayAway as away:
                log.warning("delayed", path=path, why=str(away))
                await asyncio.sleep(POLL_S)

    async def _patiently(self, path: str) -> dict[str, Any]:
        while True:
            try:
                return await self._get(path)
            except GatewayAway as away:
                log.warning("delayed", path=path, why=str(away))
                await asyncio.sleep(POLL_S)

    async def _get(self, path: str) -> dict[str, Any]:
        try:
            return _checked(await self._rest.get(path))
        except httpx.TransportError as away:
            raise GatewayAway(repr(away)) from away

    async def _post(self, path: str, body: bytes | dict[str, Any]) -> dict[str, Any]:
        content = body if isinstance(body, bytes) else msgspec.json.encode(body)
        try:
            sent = await self._rest.post(path, content=content, headers={"content-type": "application/json"})
        except httpx.TransportError as away:
            raise GatewayAway(repr(away)) from away
        return _checked(sent)


def _checked(answer: httpx.Response) -> dict[str, Any]:
    """Raises GatewayAway, SaidNo."""
    if answer.status_code >= 500 or answer.status_code == 429:
        raise GatewayAway(f"{answer.status_code}: {answer.text[:200]}")
    if answer.status_code >= 400:
        raise SaidNo(f"{answer.status_code}: {answer.text[:300]}")
    found: dict[str, Any] = answer.json()
    return found


def _said(own: tuple[Probe, ...] | Found) -> str:
    return own if isinstance(own, str) else "silent"
