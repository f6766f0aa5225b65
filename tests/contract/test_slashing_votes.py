"""Who is slashed by whose votes: attestors as processes, a real control plane, nodes that answer or do not.

The chain's side is elsewhere: here a breach ends at its quorum, or at none.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import pytest_asyncio
import uvicorn
from eth_account.signers.local import LocalAccount
from msgspec.structs import replace
from nats.aio.msg import Msg
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from events import slash
from events.breach import Breach, VoteCast
from events.evidence import Dissent, assembled, canonical, hash_of
from events.ids import slash_id_of
from events.slash import Reported
from services import bus
from services.handle import handle
from services.log import EventLog, Writer
from services.verifier.judge import judge
from shard_runtime.probes import answer_to, probe_subject
from shard_runtime.signing import ReceiptKey
from tests.aggregates import cause, ulid
from tests.attesting import KEYS, case, evidence, receipt, silent, statement, vote
from tests.contract.gateway_house import House, Peer, Service, house, until
from tests.kept_answers import accused, answered, kept

pytestmark = pytest.mark.asyncio(loop_scope="module")
WINDOW_S = 9
LONG_AGO_MS = 60_000


async def nothing(*_: Any) -> None:
    """Nobody asks these nodes for anything."""


@dataclass
class World:
    built: House
    events: EventLog
    peers: dict[str, Peer]
    cases: int = 0

    def accused(self, node: str, at_unix_ms: int, **changes: Any) -> Reported:
        """A case against one of the nodes, in a session of its own."""
        self.cases += 1
        keys = self.peers[node].keys
        values = {
            "node_id": keys.node_id,
            "operator": keys.payout_wallet,
            "receipt_key": keys.receipt.address,
        }
        values |= {"session_id": ulid(7000 + self.cases), "at_unix_ms": at_unix_ms}
        return case(**values | {"longest_probe_window_s": WINDOW_S} | changes)

    async def report(self, of: Reported) -> str:
        slash_id = slash_id_of(of.session_id, of.operator, of.kind)
        await handle(self.events, "slash", slash_id, slash.Report(of), cause(f"report-{slash_id}"))
        return slash_id

    async def shown(self, slash_id: str) -> dict[str, Any]:
        async with self.built.client(None) as client:
            return dict((await client.get(f"/slashes/{slash_id}")).json())

    async def post(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Without any token."""
        async with self.built.client(None) as client:
            answer = await client.post(path, content=body, headers={"content-type": "application/json"})
        return answer.status_code, answer.json()

    async def cast(self, slash_id: str, said: VoteCast) -> str:
        """The stage after this vote, or the code of its refusal."""
        status, answer = await self.post(f"/slashes/{slash_id}/votes", msgspec.json.encode(said))
        return str(answer["stage"] if status == 200 else answer["code"])

    async def command(self, *words: str) -> dict[str, Any]:
        """What the command line prints as JSON, or its error."""
        environment = {**os.environ, "COMPUTEPOOL_GATEWAY_URL": self.built.url}
        environment |= {"COMPUTEPOOL_STATE_DIR": str(self.built.directory / "nothing")}
        environment |= {"COMPUTEPOOL_TOKEN": self.built.operator_token}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "services.cli",
            "slash",
            *words,
            "--json",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
        )
        out, said = await process.communicate()
        return {"error": said.decode()} if process.returncode else dict(json.loads(out))

    async def stage(self, slash_id: str, wanted: str) -> dict[str, Any]:
        async def there() -> bool:
            return bool((await self.shown(slash_id))["stage"] == wanted)

        await until(there, 60)
        return await self.shown(slash_id)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with house(tmp_path_factory.mktemp("slashing")) as built:
        peers = {name: await Peer.join(built, name, nothing) for name in ("alive", "gone")}
        client = await bus.connect(built.nats.settings, "keeper")
        events = await EventLog.open(client, Writer.load(built.nats.settings.seeds_dir / "keeper.nk"))
        yield World(built, events, peers)
        await bus.close(client)
        for peer in peers.values():
            await peer.leave()


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def test_three_of_five_votes_are_a_quorum_and_nothing_less_is(world: World) -> None:
    of = world.accused("gone", now_ms() - LONG_AGO_MS)
    slash_id = await world.report(of)
    body = evidence(of, *KEYS[:3], slash_id=slash_id)
    judged = judge(body)
    assert isinstance(judged, Breach)
    early = vote(KEYS[0], of, judged, judged.evidence_hash, slash_id)
    assert await world.cast(slash_id, early) == "evidence_missing"
    status, added = await world.post(f"/slashes/{slash_id}/evidence", body)
    assert (status, added["evidence_hash"]) == (200, hash_of(body))
    async with world.built.client(None) as client:
        assert (await client.get(f"/evidence/{hash_of(body)}")).content == body
    assert await world.cast(slash_id, early) == "proven"
    assert await world.cast(slash_id, early) == "proven"
    twice = vote(KEYS[0], of, Dissent("answered_me"), judged.evidence_hash, slash_id)
    assert await world.cast(slash_id, twice) == "attestor_already_said"
    assert await world.cast(slash_id, vote(KEYS[1], of, judged, judged.evidence_hash, slash_id)) == "proven"
    assert await world.cast(slash_id, replace(early, attestor=KEYS[2].address)) == "attestation_forged"
    other = replace(judged, evidence_hash="ab" * 32)
    assert await world.cast(slash_id, vote(KEYS[2], of, other, "ab" * 32, slash_id)) == "evidence_differs"
    more = replace(judged, amount_micro=judged.amount_micro + 1)
    assert (
        await world.cast(slash_id, vote(KEYS[2], of, more, judged.evidence_hash, slash_id))
        == "breach_differs"
    )
    assert (await world.shown(slash_id))["quorum"] is None
    assert await world.cast(slash_id, vote(KEYS[4], of, judged, judged.evidence_hash, slash_id)) == "voted"
    shown = await world.shown(slash_id)
    signers = [KEYS[0].address, KEYS[1].address, KEYS[4].address]
    assert shown["quorum"]["attestors"] == sorted(signers, key=lambda address: int(address, 16))
    assert shown["due"] == "claim"


async def test_the_accused_and_strangers_have_no_say(world: World) -> None:
    payout = world.peers["gone"].keys.payout
    keys: list[LocalAccount] = [*KEYS[:4], payout]
    attestors = tuple(key.address for key in keys)
    of = world.accused("gone", now_ms() - LONG_AGO_MS, attestors=attestors)
    slash_id = await world.report(of)
    body = evidence(of, *KEYS[:3], slash_id=slash_id)
    judged = judge(body)
    assert isinstance(judged, Breach)
    assert (await world.post(f"/slashes/{slash_id}/evidence", body))[0] == 200
    own = vote(payout, of, judged, hash_of(body), slash_id)
    assert await world.cast(slash_id, own) == "accused_cannot_vote"
    assert await world.cast(slash_id, vote(KEYS[4], of, judged, hash_of(body), slash_id)) == "not_attestor"
    for key in KEYS[:2]:
        against = vote(key, of, Dissent("answered_me"), hash_of(body), slash_id)
        assert await world.cast(slash_id, against) in ("proven", "rejected")
    shown = await world.shown(slash_id)
    assert (shown["stage"], shown["quorum"]) == ("rejected", None)
    assert await world.cast(slash_id, vote(KEYS[2], of, judged, hash_of(body), slash_id)) == "votes_closed"


async def test_what_only_a_model_can_judge_is_taken_from_the_reporter_or_an_operator(world: World) -> None:
    told = answered(lies=(77, None))
    of = accused(0, session_id=ulid(7900), reporter="session:somebody", at_unix_ms=now_ms())
    slash_id = await world.report(of)
    path, body = f"/slashes/{slash_id}/evidence", assembled(slash_id, of, answer=kept(told, 0))
    status, refused = await world.post(path, body)
    assert (status, refused["code"]) == (403, "evidence_not_the_reporters")
    altered = assembled(slash_id, of, answer=kept(told, 0, chain_epoch=9))
    status, refused = await world.post(path, altered)
    assert (status, refused["code"]) == (409, "evidence_unproven")
    async with world.built.client(world.built.operator_token) as client:
        headers = {"content-type": "application/json"}
        assert (await client.post(path, content=body, headers=headers)).status_code == 200
    assert (await world.shown(slash_id))["stage"] == "proven"


async def test_evidence_that_proves_nothing_is_not_taken(world: World) -> None:
    of = world.accused("gone", now_ms() - LONG_AGO_MS)
    slash_id = await world.report(of)
    path = f"/slashes/{slash_id}"
    body = evidence(of, *KEYS[:2], slash_id=slash_id)
    status, answer = await world.post(f"{path}/evidence", body)
    assert (status, answer["code"], answer["detail"]) == (409, "evidence_unproven", "vantage_points_missing")
    said = statement(KEYS[0], of, silent(of)[:-1], slash_id)
    status, answer = await world.post(f"{path}/statements", canonical(said))
    assert (status, answer["detail"]) == (409, "probes_too_short")
    forged = replace(statement(KEYS[0], of, silent(of), slash_id), attestor=KEYS[1].address)
    assert (await world.post(f"{path}/statements", canonical(forged)))[1]["code"] == "attestation_forged"
    assert (await world.post(f"{path}/statements", b"{}"))[1]["code"] == "invalid_request"
    assert (await world.post(f"{path}/evidence", b" " * 300_000))[1]["code"] == "request_too_large"
    assert (await world.post(f"/slashes/{ulid(1)}/evidence", body))[1]["code"] == "slash_unknown"
    lie = world.accused("gone", now_ms(), kind="equivocation", receipt_key=KEYS[3].address)
    lying = await world.report(lie)
    pair = tuple(receipt(lie, out, key=KEYS[3]) for out in (7, 8))
    made = assembled(lying, lie, receipts=pair)
    assert (await world.post(f"/slashes/{lying}/evidence", made))[1]["detail"] == "not_deterministic"


async def test_statements_of_a_quorum_become_the_evidence(world: World) -> None:
    of = world.accused("gone", now_ms() - LONG_AGO_MS)
    slash_id = await world.report(of)
    for number, key in enumerate(KEYS[:3]):
        said = canonical(statement(key, of, silent(of, late_ms=number), slash_id))
        status, answer = await world.post(f"/slashes/{slash_id}/statements", said)
        assert status == 200, answer
        assert (answer["evidence_hash"] is None) == (number < 2)
    async with world.built.client(None) as client:
        body = (await client.get(f"/evidence/{answer['evidence_hash']}")).content
    judged = judge(body)
    assert isinstance(judged, Breach)
    assert judged.evidence_hash == answer["evidence_hash"] == hash_of(body)
    async with world.built.client(None) as client:
        listed = (await client.get("/slashes", params={"at_least": answer["position"]})).json()["items"]
    assert slash_id in [row["slash_id"] for row in listed]


async def test_an_attestor_votes_by_the_command_line(world: World, tmp_path: Path) -> None:
    of = world.accused("gone", now_ms() - LONG_AGO_MS)
    slash_id = await world.report(of)
    files = [tmp_path / f"{number}.key" for number in range(2)]
    for file, key in zip(files, KEYS, strict=False):
        file.write_text(key.key.hex().removeprefix("0x"))
    early = await world.command("vote", slash_id, "--key", str(files[0]))
    assert "evidence_missing" in early["error"]
    body = evidence(of, *KEYS[:3], slash_id=slash_id)
    assert (await world.post(f"/slashes/{slash_id}/evidence", body))[0] == 200
    first, second = await asyncio.gather(
        world.command("vote", slash_id, "--key", str(files[0])),
        world.command("vote", slash_id, "--key", str(files[1]), "--dissent", "answered_me"),
    )
    assert (first["attestor"], first["verdict"]) == (KEYS[0].address, "breach")
    assert (second["verdict"], second["reason"]) == ("dissent", "answered_me")
    shown, unknown = await asyncio.gather(
        world.command("show", slash_id), world.command("report", ulid(1), ulid(2))
    )
    assert sorted(one["verdict"] for one in shown["votes"]) == ["breach", "dissent"]
    assert "session_unknown" in unknown["error"]


@contextlib.asynccontextmanager
async def tampering(gateway: str) -> AsyncIterator[str]:
    """A way to the gateway on which every evidence loses its last byte, and every probe its answer."""

    client = httpx.AsyncClient(base_url=gateway, trust_env=False, verify=False, timeout=20)

    async def forward(request: Request) -> Response:
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        headers = {"content-type": "application/json"}
        answer = await client.request(request.method, path, content=await request.body(), headers=headers)
        body = answer.content[:-1] if request.url.path.startswith("/evidence/") else answer.content
        if request.url.path.endswith("/probes") and answer.status_code == 200:
            body = json.dumps({**answer.json(), "signature": None}).encode()
        return Response(body, answer.status_code, media_type="application/json")

    app = Starlette(routes=[Route("/{path:path}", forward, methods=["GET", "POST"])])
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    serving = asyncio.create_task(server.serve())

    async def started() -> bool:
        return server.started

    await until(started)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await serving
        await client.aclose()


@dataclass
class Attestors:
    """One process for each of KEYS, each with its own way to the gateway."""

    directory: Path
    gateways: Sequence[str]
    running: dict[int, Service] = field(default_factory=dict)

    async def start(self, number: int) -> None:
        file, log = (self.directory / f"attestor-{number}.{kind}" for kind in ("key", "log"))
        file.write_text(KEYS[number].key.hex().removeprefix("0x"))
        words = ("-m", "services.verifier", "--key", str(file), "--gateway", self.gateways[number])
        with log.open("ab") as out:
            process = await asyncio.create_subprocess_exec(
                sys.executable, *words, stdout=out, stderr=out, env=dict(os.environ)
            )
        self.running[number] = Service(file.name, process, log)

    async def ready(self) -> None:
        async def all_ready() -> bool:
            for service in self.running.values():
                assert service.process.returncode is None, service.log
            return all("ready" in service.log for service in self.running.values())

        await until(all_ready, 60)

    async def stop(self) -> None:
        for service in self.running.values():
            await service.stop()


@pytest.mark.long
async def test_attestors_find_a_silent_node_and_clear_one_that_answers(world: World, tmp_path: Path) -> None:
    """Two of five are handed altered bytes and say so; three are the quorum, one of them killed in between.

    The same two hear no answers of the other node: two statements are no evidence.
    """
    answering = world.peers["alive"]
    key = ReceiptKey(bytes(answering.keys.receipt.key))

    async def answer(message: Msg) -> None:
        await message.respond(answer_to(message.data, answering.node_id, key) or b"")

    assert answering.client is not None
    await answering.client.subscribe(probe_subject(answering.node_id), cb=answer)
    async with tampering(world.built.url) as altered:
        honest = world.built.url
        attestors = Attestors(tmp_path, (honest, altered, honest, altered, honest))
        try:
            for number in range(len(KEYS)):
                await attestors.start(number)
            await attestors.ready()
            soon = now_ms() + 1_500
            silent_case, alive_case = world.accused("gone", soon), world.accused("alive", soon)
            gone, alive = await world.report(silent_case), await world.report(alive_case)

            async def stated() -> bool:
                return KEYS[0].address.lower() in (await world.shown(gone))["statements"]

            await until(stated, 60)
            await attestors.running[0].stop(signal.SIGKILL)
            await attestors.start(0)

            async def all_voted() -> bool:
                return len((await world.shown(gone))["votes"]) == len(KEYS)

            await until(all_voted, 60)
            shown = await world.stage(gone, "voted")

            async def all_probed() -> bool:
                found = (await world.shown(alive))["statements"]
                return len(found) == 2 and all(alive in one.log for one in attestors.running.values())

            await until(all_probed, 60)
        finally:
            await attestors.stop()
    verdicts = {one["attestor"]: (one["verdict"], one["reason"]) for one in shown["votes"]}
    for number, each in enumerate(KEYS):
        expected = ("dissent", "evidence_altered") if number in (1, 3) else ("breach", "")
        assert verdicts[each.address] == expected
    assert {*shown["quorum"]["attestors"]} == {KEYS[number].address for number in (0, 2, 4)}
    cleared = await world.shown(alive)
    assert (cleared["stage"], cleared["evidence_hash"]) == ("reported", None)
    assert set(cleared["statements"]) == {KEYS[number].address.lower() for number in (1, 3)}
    for number in (0, 2, 4):
        assert "answered" in attestors.running[number].log
    assert json.dumps(cleared["votes"]) == "[]"
