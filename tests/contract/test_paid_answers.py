"""Paid answers, start to end: OpenAI's own client pays through x402's, tokens stream, the rest comes back.

Real gateway, keeper, log, database, Superfluid on a real anvil; the peer computes nothing.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import openai
import pytest
import pytest_asyncio
from typer.testing import CliRunner
from x402.http.clients import x402HttpxClient

from events import payment, session, stream
from events.envelope import Cause
from services import bus
from services.cli import app
from services.facilitator.shapes import RESPONSE, Settlement, from_header
from services.gateway import session_keys
from services.gateway.state import now_ms
from services.handle import handle
from services.log import EventLog, Writer
from shard_runtime import messages
from shard_runtime.receipts import receipts_root
from shard_runtime.transcripts import Transcript
from tests.contract.gateway_house import Peer, form, until
from tests.market import CHAT, Market, market_of, open_coalition
from tests.paid_chain import RATE
from tests.paying import x402_client
from tests.signing_ring import ANSWER, LONG, MOVED, SPOILT, TWICE, SigningRing

pytestmark = pytest.mark.asyncio(loop_scope="module")
KINDS = ("voucher", "streamed", "refund", "penalty")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def market(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Market]:
    async with market_of(tmp_path_factory.mktemp("answers"), _tell, keeper=True) as built:
        yield built


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ring(market: Market) -> AsyncIterator[SigningRing]:
    """The two stages of the pool `pair`."""
    ring = SigningRing()
    ring.peers += [await Peer.join(market.house, name, ring) for name in ("two", "three")]
    pool_id = await form(market.house, ring.peers, "pair", price_wei_per_s=str(RATE), context_length=64)
    await open_coalition(market.house, market.chain, pool_id)
    market.pools["pair"] = pool_id
    yield ring
    for peer in ring.peers:
        await peer.leave()


async def _tell(peer: Peer, command: messages.Generate, content: messages.SealedContent) -> None:
    """A long answer goes on until it is cancelled."""
    if command.max_tokens == LONG:
        await peer.say(command, 0, "Once ", ids=(0,))

        async def cancelled() -> bool:
            return any(one.request_id == command.request_id for one in peer.cancelled)

        await until(cancelled, within_s=60)
        await peer.end(command, content, "Once ", 1, "cancelled")
        return
    for index, text in enumerate(ANSWER):
        await peer.say(command, index, text, ids=(index,))
    await peer.end(command, content, "".join(ANSWER), len(ANSWER))


async def test_the_official_client_pays_by_x402_and_streams_and_what_is_not_used_comes_back(
    market: Market,
) -> None:
    payer = await market.till.payer(1_000_000)
    async with x402HttpxClient(x402_client(payer), timeout=60, trust_env=False) as http:
        client = openai.AsyncOpenAI(base_url=f"{market.house.url}/v1", api_key="none", http_client=http)
        asked = client.chat.completions.with_raw_response
        raw = await asked.create(model="alpha", stream=True, **CHAT)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in raw.parse()])
    assert text == "".join(ANSWER)
    paid = from_header(raw.headers[RESPONSE], Settlement)
    assert paid.success
    assert paid.amount is not None
    assert await market.till.held(payer.address) == 1_000_000 - int(paid.amount)
    session_id, key = raw.headers["x-computepool-session"], raw.headers[session_keys.HEADER]
    async with market.house.client(key) as http_client:
        both = await asyncio.gather(
            *(http_client.post("/v1/chat/completions", json={"model": "alpha", **CHAT}) for _ in range(2))
        )
        assert [one.json()["choices"][0]["message"]["content"] for one in both] == ["".join(ANSWER)] * 2

        async def idle() -> bool:
            shown = (await http_client.get(f"/sessions/{session_id}")).json()
            return all(one["finish_reason"] for one in shown["request_list"])

        await until(idle)
        assert (await http_client.post(f"/sessions/{session_id}/settle")).status_code == 200
    assert len(market.peer.generated) == 3

    reader = await bus.connect(market.house.nats.settings, "gateway")
    try:
        log = await EventLog.open(reader, None)

        async def settled() -> bool:
            state = await _session(log, session_id)
            return isinstance(state, session.Closed) and state.settled is not None

        await until(settled, within_s=60)
        state = await _session(log, session_id)
        assert isinstance(state, session.Closed)
        assert state.settled is not None
        flowed = stream.stream.fold(item.event for item in (await log.history("stream", session_id)).recorded)
        assert isinstance(flowed, stream.Stream)
        await _starts_before_every_answer(log, session_id)
    finally:
        await bus.close(reader)
    assert state.settled.requests == 3
    assert flowed.paid_wei + flowed.refund_wei == int(paid.amount) * 10**12
    assert flowed.paid_wei > 0
    refund_micro = int(state.settled.refund_wei) // 10**12
    assert await market.till.held(payer.address) == 1_000_000 - int(paid.amount) + refund_micro


async def test_an_answer_that_outlives_its_budget_is_stopped_and_says_so(market: Market) -> None:
    payer = await market.till.payer(1_000_000)
    client = await bus.connect(market.house.nats.settings, "gateway")
    seed = (market.house.nats.settings.seeds_dir / "gateway.nk").read_bytes().strip()
    log = await EventLog.open(client, Writer(seed, market.house.directory / "test.head"))
    told: list[str] = []
    try:
        async with x402HttpxClient(x402_client(payer), timeout=60, trust_env=False) as http:
            body = {"model": "alpha", **CHAT, "max_completion_tokens": LONG, "stream": True}
            url = f"{market.house.url}/v1/chat/completions"
            async with http.stream("POST", url, json=body) as answer:
                session_id = answer.headers["x-computepool-session"]
                key = answer.headers[session_keys.HEADER]
                async for line in answer.aiter_lines():
                    told.append(line)
                    if "Once" in line:
                        running = await _meter(market, session_id, key)
                        live = await _next_meter(market, key)
                        # as the orchestrator's timer says when the escrow's hard stop has come
                        used_up = payment.RequestClose("budget")
                        cause = Cause(f"budget:{session_id}", "test", f"budget:{session_id}", now_ms())
                        await handle(log, "session", session_id, used_up, cause)

        async def refunded() -> bool:
            state = await _session(log, session_id)
            return isinstance(state, session.Closed) and state.settled is not None

        await until(refunded, within_s=60)
    finally:
        await bus.close(client)
    assert (running["status"], running["active"]) == ("flowing", 1)
    assert int(running["streamed_wei"]) == running["billed_seconds"] * int(running["rate_wei_per_s"])
    assert running["seconds_left"] > 0
    assert live["session_id"] == session_id
    assert int(live["streamed_wei"]) >= int(running["streamed_wei"])
    await _ledger_adds_up(market, session_id, key)
    ended = await _meter(market, session_id, key)
    assert (ended["status"], ended["left_wei"], ended["seconds_left"]) == ("closed", "0", None)
    assert int(ended["cap_wei"]) == int(ended["streamed_wei"]) + int(ended["refund_wei"])
    assert int(ended["streamed_wei"]) >= int(live["streamed_wei"]) - int(running["rate_wei_per_s"])
    assert abs(ended["overbilled_seconds"]) < 60
    assert '"code":"budget_used_up"' in told[-2]
    assert "data: [DONE]" not in told


async def test_a_bought_session_that_nobody_asks_in_ends_and_all_of_it_comes_back(market: Market) -> None:
    payer = await market.till.payer(1_000_000)
    voucher = await market.voucher(payer, await market.asked(ttl_s=1))
    bought = (await market.post("/sessions", "alpha", voucher, ttl_s=1)).json()
    assert int(bought["paid_micro"]) > 0

    async def returned() -> bool:
        return await market.till.held(payer.address) == 1_000_000

    assert not await returned()
    await until(returned, within_s=60)
    async with market.house.client() as client:

        async def settled() -> bool:
            shown = (await client.get(f"/sessions/{bought['session_id']}")).json()
            return bool(shown["status"] == "settled")

        await until(settled, within_s=60)


async def test_the_payer_of_an_answer_has_what_its_ring_signed_and_nobody_else(
    market: Market, ring: SigningRing, tmp_path: Path
) -> None:
    """In the log by its root, by the session's key, and in the transcript that the request asks for."""
    entry, exit_ = (peer.node_id for peer in ring.peers)
    payer = await market.till.payer(1_000_000)
    async with x402HttpxClient(x402_client(payer), timeout=60, trust_env=False) as http:
        client = openai.AsyncOpenAI(base_url=f"{market.house.url}/v1", api_key="none", http_client=http)
        asked = client.chat.completions.with_raw_response
        raw = await asked.create(model="pair", stream=True, extra_body={"transcript": True}, **CHAT)
        chunks = [chunk async for chunk in raw.parse()]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "".join(ANSWER)
    session_id, key = raw.headers["x-computepool-session"], raw.headers[session_keys.HEADER]
    written = (chunks[-1].model_extra or {})["computepool"]["transcript"]
    transcript = msgspec.convert(written, Transcript)
    command, content = ring.peers[0].generated[0]
    assert transcript.terms == command.terms
    assert transcript.terms.coalition == market.chain.coalition
    assert (transcript.prompt_ids, transcript.nonce) == (content.prompt_ids, content.nonce)
    assert (transcript.completion_ids, transcript.sampling) == ((0, 1, 2), command.sampling)
    assert (transcript.attempt, transcript.first_step) == (command.epoch, 0)
    assert [one.node_id for one in transcript.members] == [entry, exit_]
    assert [one.node_id for one in transcript.receipts] == [entry, exit_]
    told = await _receipts(market, key, session_id, raw.headers["x-computepool-request"])
    assert told["receipts_root"] == receipts_root(transcript.receipts, transcript.usage)
    assert {name: told[name] for name in ("receipts", "usage", "terms", "attempt")} == {
        name: written[name] for name in ("receipts", "usage", "terms", "attempt")
    }
    assert told["receipts_missing"] == []

    async with market.house.client(key) as own:
        spoilt = await _ask(own, max_completion_tokens=SPOILT, transcript=True)
        found = spoilt.json()["computepool"]["transcript"]
        assert [one["node_id"] for one in found["receipts"]] == [entry]
        told = await _receipts(market, key, session_id, spoilt.headers["x-computepool-request"])
        assert (told["receipts"], told["receipts_missing"]) == (found["receipts"], [exit_])
        metrics = (await own.get("/metrics", headers={"authorization": ""})).text
        assert 'computepool_receipts_total{model="pair",outcome="missing"} 1.0' in metrics

        plain = await _ask(own, max_completion_tokens=TWICE)
        assert "computepool" not in plain.json()
        request_id = plain.headers["x-computepool-request"]
        told = await _receipts(market, key, session_id, request_id)
        assert len(told["receipts"]) == 2
        prompts = {"model": "pair", "prompt": ["One", "Two"], "max_tokens": 8, "transcript": True}
        several = (await own.post("/v1/completions", json=prompts)).json()
        assert len({one["request_id"] for one in several["computepool"]["transcripts"]}) == 2

        body = {"model": "pair", **CHAT, "max_completion_tokens": LONG, "stream": True}
        async with own.stream("POST", "/v1/chat/completions", json=body) as left:
            cut_off = left.headers["x-computepool-request"]
            await anext(left.aiter_lines())
        cut = await _receipts(market, key, session_id, cut_off)
        assert (len(cut["receipts"]), cut["usage"]["completion_tokens"]) == (2, 1)
        assert await _receipts(market, key, session_id, request_id) == told
    kept = tmp_path / "answer.json"
    said = ["chat", "Hello", "--model", "pair", "--session-key", key, "--gateway", market.house.url]
    said += ["--max-tokens", str(SPOILT), "--transcript", str(kept)]
    ran = await asyncio.to_thread(CliRunner().invoke, app, said)
    assert ran.exit_code == 0, ran.output
    assert f"receipts of 1 of 2 nodes; nothing from {exit_}" in ran.stderr
    again = msgspec.json.decode(kept.read_bytes(), type=Transcript)
    assert (again.session_id, again.completion_ids) == (session_id, (0, 1, 2))
    assert kept.stat().st_mode & 0o777 == 0o600
    where = f"/sessions/{session_id}/requests/{request_id}/receipts"
    other = await market.house.new_key("other")
    for token, code in (("", "payer_only"), (None, "missing_api_key"), (other, "session_unknown")):
        async with market.house.client(token) as stranger:
            assert (await stranger.get(where)).json()["code"] == code


async def test_of_an_answer_that_moved_the_last_ring_s_receipts_are_kept_and_its_transcript_is_whole(
    market: Market, ring: SigningRing
) -> None:
    payer = await market.till.payer(1_000_000)
    voucher = await market.voucher(payer, await market.asked(model="pair"))
    bought = (await market.post("/sessions", "pair", voucher)).json()
    body = {"model": "pair", **CHAT, "max_completion_tokens": MOVED, "stream": True, "transcript": True}
    async with market.house.client(bought["session_key"]) as client:
        async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            lines = answer.aiter_lines()
            told = [await anext(lines)]
            async with market.house.client() as operator:
                where = f"/pools/{market.pools['pair']}"
                plan = {"node_ids": [ring.peers[1].node_id]}
                assert (await operator.post(f"{where}/plan", json=plan)).status_code == 200

                async def serves() -> bool:
                    return bool((await operator.get(where)).json()["serving_epoch"] == 2)

                await until(serves)
            ring.moves.set()
            told += [line async for line in lines]
            request_id = answer.headers["x-computepool-request"]
        last = next(line for line in reversed(told) if '"finish_reason":"stop"' in line)
        transcript = msgspec.convert(
            json.loads(last.removeprefix("data: "))["computepool"]["transcript"], Transcript
        )
        found = await _receipts(market, bought["session_key"], bought["session_id"], request_id)
    before, command = ring.peers[0].generated[-1][0], ring.peers[1].generated[-1][0]
    assert (before.terms, before.epoch, command.epoch) == (command.terms, 1, 2)
    assert [one.node_id for one in transcript.members] == [ring.peers[1].node_id]
    assert (transcript.attempt, transcript.completion_ids) == (2, (0, 1, 2))
    assert transcript.usage is not None
    assert (transcript.usage.resumed_tokens, transcript.usage.completion_tokens) == (1, 3)
    assert found["receipts_root"] == receipts_root(transcript.receipts, transcript.usage)
    assert (found["attempt"], found["receipts_missing"]) == (2, [])


async def _ask(client: httpx.AsyncClient, **more: Any) -> httpx.Response:
    answer = await client.post("/v1/chat/completions", json={"model": "pair", **CHAT, **more})
    assert answer.status_code == 200, answer.text
    return answer


async def _receipts(market: Market, key: str, session_id: str, request_id: str) -> dict[str, Any]:
    """Once the log knows that the request has ended."""
    found: dict[str, Any] = {}

    async def ended() -> bool:
        async with market.house.client(key) as client:
            answer = await client.get(f"/sessions/{session_id}/requests/{request_id}/receipts")
        assert answer.status_code in (200, 409), answer.text
        found.update(answer.json())
        return answer.status_code == 200

    await until(ended, within_s=60)
    return found


async def _meter(market: Market, session_id: str, key: str) -> dict[str, Any]:
    async with market.house.client(key) as client:
        answer = await client.get(f"/sessions/{session_id}/meter")
        assert answer.status_code == 200, answer.text
        assert (await client.get(f"/sessions/{'0' * 26}/meter")).status_code == 404
    return dict(answer.json())


async def _ledger_adds_up(market: Market, session_id: str, key: str) -> None:
    """Of one session, and of everybody, by what the routes show."""
    async with market.house.client(key) as client:

        async def refunded() -> bool:
            entries = (await client.get(f"/sessions/{session_id}/ledger")).json()["items"]
            return any(one["kind"] == "refund" for one in entries)

        await until(refunded, within_s=60)
        entries = (await client.get(f"/sessions/{session_id}/ledger")).json()["items"]
        assert (await client.get("/ledger")).status_code == 403
    paid = {kind: sum(int(one["amount_wei"]) for one in entries if one["kind"] == kind) for kind in KINDS}
    assert paid["voucher"] == paid["streamed"] + paid["refund"] > 0
    assert all(len(one["tx"]) == 66 and one["block_number"] > 0 for one in entries)
    async with market.house.client() as client:
        sums = (await client.get("/ledger")).json()
    received = sum(int(one["streamed_wei"]) for one in sums["operators"])
    assert received == sum(int(one["voucher_wei"]) - int(one["refund_wei"]) for one in sums["payers"])
    assert received >= paid["streamed"] > 0


async def _next_meter(market: Market, key: str) -> dict[str, Any]:
    """The first one that the feed shows this session's key."""
    async with (
        asyncio.timeout(60),
        market.house.client(key) as client,
        client.stream("GET", "/feed", params={"meters": "true"}) as feed,
    ):
        name = ""
        async for line in feed.aiter_lines():
            if line.startswith("data: ") and name == "meter":
                return dict(json.loads(line[6:]))
            name = line.removeprefix("event: ") if line.startswith("event: ") else name
    raise AssertionError("the feed ended")


async def _session(log: EventLog, session_id: str) -> session.SessionState:
    history = await log.history("session", session_id)
    return session.session.fold(item.event for item in history.recorded)


async def _starts_before_every_answer(log: EventLog, session_id: str) -> None:
    """Money flowed, for each request, at a time between its start and its end in the log.

    Not all the time: a stop that was under way for the request before it may come in between, and then the
    keeper starts the stream again.
    """
    told = [
        *(await log.history("session", session_id)).recorded,
        *(await log.history("stream", session_id)).recorded,
    ]
    flows, paid = False, dict[str, bool]()
    for item in sorted(told, key=lambda one: one.position):
        match item.event:
            case session.RequestStarted(request_id):
                paid[request_id] = flows
            case stream.Started():
                flows = True
                paid = dict.fromkeys(paid, True)
            case stream.Stopped():
                flows = False
            case session.GenerationEnded(request_id):
                assert paid.pop(request_id)
            case _:
                pass
