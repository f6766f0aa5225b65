"""The REST routes over a real control plane: who may, joining, idempotency, pages, the feed, health,
stopping.
"""

import asyncio
import json
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from events.registration import registration
from services.node_keys import MESH_KEY_FILE, NodeKeys
from shard_runtime import messages
from tests.contract.gateway_house import House, Peer, form, house

pytestmark = pytest.mark.asyncio(loop_scope="module")
DOCS = Path(__file__).parents[2] / "docs"
ASK = [{"role": "user", "content": "Tell me a story about a brave otter."}]
NOBODY = "0" * 26


async def answers(peer: Peer, command: messages.Generate, content: messages.SealedContent) -> None:
    await peer.say(command, 0, "Once.", ids=(0,))
    await peer.end(command, content, "Once.", 1)


class World:
    def __init__(self, built: House, peer: Peer, pool_id: str, own: str, other: str) -> None:
        self.built, self.peer, self.pool_id, self.own, self.other = built, peer, pool_id, own, other


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with house(Path(tmp_path_factory.mktemp("house"))) as built:
        peer = await Peer.join(built, "only", answers)
        pool_id = await form(built, [peer], "tales")
        yield World(built, peer, pool_id, await built.new_key("own"), await built.new_key("other"))
        await peer.leave()


def matrix() -> list[tuple[str, str, dict[str, str]]]:
    """(method, route, cell by credential) of every row of docs/security.md."""
    rows = re.findall(r"^\| (GET|POST|DELETE) \| (\S+) \|(.*)\|$", (DOCS / "security.md").read_text(), re.M)
    names = ("none", "other", "own", "operator")
    return [
        (method, route, dict(zip(names, (cell.strip() for cell in cells.split("|")), strict=True)))
        for method, route, cells in rows
    ]


async def ask(client: httpx.AsyncClient, method: str, path: str) -> tuple[int, dict[str, Any]]:
    """Status and body; of an endless answer only the status. Headers carry no Idempotency-Key."""
    bodies: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"model": "tales", "messages": ASK, "max_tokens": 4},
        "/v1/completions": {"model": "tales", "prompt": [], "max_tokens": 4},
        "/sessions": {"model": "tales"},
    }
    body = bodies.get(path, {})
    async with client.stream(method, path, json=body if method == "POST" else None) as answer:
        if answer.headers["content-type"].startswith("text/event-stream"):
            return answer.status_code, {}
        content = await answer.aread()
    return answer.status_code, json.loads(content) if "json" in answer.headers["content-type"] else {}


@pytest.mark.parametrize("credential", ["none", "other", "own", "operator"])
async def test_the_authorisation_matrix_holds_on_every_route(world: World, credential: str) -> None:
    tokens = {"none": None, "other": world.other, "own": world.own, "operator": ""}
    async with world.built.client(world.own) as owner, world.built.client(tokens[credential]) as client:
        opened = (await owner.post("/sessions", json={"model": "tales"})).json()
        await owner.get("/sessions", params={"at_least": opened["position"]})
        ids = {
            "session_id": opened["session_id"],
            "pool_id": world.pool_id,
            "node_id": world.peer.node_id,
            "key_id": NOBODY,
            "model_id": "tales",
            "slash_id": NOBODY,
            "request_id": NOBODY,
            "run_id": NOBODY,
            "evidence_hash": "0" * 64,
        }
        for method, route, cells in matrix():
            if "retire" in route or "drain" in route:
                ids = {**ids, "pool_id": NOBODY, "node_id": NOBODY}
            path = re.sub(r"\{(\w+)\}", lambda name, ids=ids: ids[name[1]], route)  # type: ignore[misc]
            ids |= {"pool_id": world.pool_id, "node_id": world.peer.node_id}
            status, body = await ask(client, method, path)
            error = body.get("error")
            code = body.get("code") or (error["code"] if isinstance(error, dict) else None)
            where = f"{credential}: {method} {path} -> {status} {code}"
            if cells[credential] == "yes":
                assert status not in (401, 403), where
                # No keeper runs, and a plan (the operator may make one) needs a heartbeat until all is ready.
                assert status < 500 or route in ("/readyz", "/keeper"), where
                assert code != "session_unknown", where
            else:
                assert status == int(cells[credential]), where


async def test_every_route_has_a_row_and_a_wrong_token_is_refused_everywhere(world: World) -> None:
    async with world.built.client("cp_wrong") as client:
        spec = (await client.get("/openapi.json")).json()
        routes = {
            (method.upper(), path.replace(":path}", "}"))
            for path, methods in spec["paths"].items()
            for method in methods
        }
        rows = {(method, route) for method, route, _ in matrix()}
        assert routes - rows == set()
        assert rows - routes == {("GET", "/docs"), ("GET", "/openapi.json")}
        looked_at = {
            path for path, methods in spec["paths"].items() for one in methods.values() if "security" in one
        }
        assert {"/nodes", "/pools", "/v1/models", "/feed"} <= looked_at
        refused = [
            await client.get(path) for path in ("/nodes", "/pools", "/v1/models", "/feed", "/sessions")
        ]
    assert [answer.status_code for answer in refused] == [401] * 5


def claim_of(keys: NodeKeys, challenge: dict[str, Any]) -> dict[str, Any]:
    claim = {
        "node_id": keys.node_id,
        "mesh_key": keys.mesh_key,
        "nats_key": keys.nats_key,
        "receipt_key": keys.receipt_key,
        "seal_key": keys.seal_key,
        "payout_wallet": keys.payout_wallet,
        "challenge": challenge["challenge"],
        "expires_unix_s": challenge["expires_unix_s"],
    }
    signatures = keys.sign_registration(registration(chain_id=challenge["chain_id"], **claim))
    return {"label": "new", **claim, "signatures": signatures}


async def challenge_of(client: httpx.AsyncClient) -> dict[str, Any]:
    return dict((await client.post("/nodes/challenges", json={})).json())


async def test_a_registration_is_taken_once_and_repeats_are_harmless(world: World, tmp_path: Path) -> None:
    keys = NodeKeys.load_or_make(tmp_path)
    async with world.built.client() as client:
        body = claim_of(keys, await challenge_of(client))
        first = await client.post("/nodes", json=body)
        again = await client.post("/nodes", json=body)
        fresh = await client.post("/nodes", json=claim_of(keys, await challenge_of(client)))
        shown = await client.get(f"/nodes/{keys.node_id}", params={"at_least": first.json()["position"]})
    assert first.status_code == 201
    assert (again.status_code, fresh.status_code) == (200, 200)
    assert again.json()["position"] == first.json()["position"]
    assert shown.json()["payout_wallet"] == keys.payout_wallet


async def test_a_node_id_claimed_with_other_keys_is_a_conflict(world: World, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    keys = NodeKeys.load_or_make(first)
    second.mkdir()
    shutil.copy(first / MESH_KEY_FILE, second / MESH_KEY_FILE)
    async with world.built.client() as client:
        assert (
            await client.post("/nodes", json=claim_of(keys, await challenge_of(client)))
        ).status_code == 201
        claimed = claim_of(NodeKeys.load_or_make(second), await challenge_of(client))
        assert claimed["node_id"] == keys.node_id
        refused = await client.post("/nodes", json=claimed)
    assert refused.status_code == 409
    assert refused.json()["code"] == "node_already_registered"


@pytest.mark.parametrize("signer", ["mesh", "nats", "receipt", "payout"])
async def test_a_forged_signature_is_named(world: World, tmp_path: Path, signer: str) -> None:
    mine, theirs = NodeKeys.load_or_make(tmp_path / "a"), NodeKeys.load_or_make(tmp_path / "b")
    async with world.built.client() as client:
        challenge = await challenge_of(client)
        body = claim_of(mine, challenge)
        body["signatures"][signer] = claim_of(theirs, challenge)["signatures"][signer]
        refused = await client.post("/nodes", json=body)
        unknown = await client.get(f"/nodes/{mine.node_id}")
    assert refused.status_code == 400
    assert refused.json()["code"] == "registration_forged"
    assert refused.json()["param"] == f"signatures.{signer}"
    assert refused.headers["content-type"] == "application/problem+json"
    assert unknown.status_code == 404


async def test_a_challenge_serves_one_node_and_another_nodes_id_is_refused(
    world: World, tmp_path: Path
) -> None:
    first, second = NodeKeys.load_or_make(tmp_path / "a"), NodeKeys.load_or_make(tmp_path / "b")
    async with world.built.client() as client:
        challenge = await challenge_of(client)
        assert (await client.post("/nodes", json=claim_of(first, challenge))).status_code == 201
        reused = await client.post("/nodes", json=claim_of(second, challenge))
        invented = await client.post("/nodes", json=claim_of(second, {**challenge, "challenge": "0" * 64}))
        body = claim_of(second, await challenge_of(client))
        stolen = await client.post("/nodes", json={**body, "node_id": first.node_id})
    assert reused.json()["code"] == invented.json()["code"] == "challenge_invalid"
    assert stolen.json()["param"] == "node_id"


async def test_the_same_key_and_body_get_the_same_answer_and_another_body_a_conflict(world: World) -> None:
    body = {"name": "twice", "model": "tales", "weights_digest": "cd" * 32}
    async with world.built.client() as client:
        header = {"idempotency-key": "work-1"}
        first = await client.post("/pools", json=body, headers=header)
        again = await client.post("/pools", json=body, headers=header)
        other = await client.post("/pools", json={**body, "kv_slots": 9}, headers=header)
        taken = await client.post("/pools", json=body)
    assert first.status_code == again.status_code == 201
    assert again.json() == first.json()
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert other.json()["code"] == "idempotency_conflict"
    assert taken.json()["code"] == "pool_name_taken"


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "gemma3n", "text_config": {}}, "share KV"),
        ({"model_type": "qwen3_next", "layer_types": ["linear_attention"], "num_experts": 8}, "recurrent"),
        ({"model_type": "mixtral", "num_local_experts": 8}, "MoE"),
        ({"model_type": "mamba2", "state_size": 128}, "recurrent"),
    ],
)
async def test_a_pool_of_a_model_that_cannot_be_cut_is_refused_before_anybody_loads_it(
    world: World, tmp_path: Path, config: dict[str, Any], reason: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    async with world.built.client() as client:
        body = {"name": "uncut", "model": str(tmp_path), "weights_digest": "cd" * 32}
        refused = await client.post("/pools", json=body)
    assert (refused.status_code, refused.json()["code"]) == (400, "architecture_unsupported")
    assert refused.json()["detail"].startswith(f"{config['model_type']} is not supported: ")
    assert reason in refused.json()["detail"]
    assert refused.json()["param"] == "model"


async def test_a_token_is_not_kept_for_a_replay_and_stops_when_revoked(world: World) -> None:
    async with world.built.client() as client:
        header = {"idempotency-key": "key-1"}
        first = (await client.post("/keys", json={"label": "x"}, headers=header)).json()
        again = (await client.post("/keys", json={"label": "x"}, headers=header)).json()
        async with world.built.client(first["token"]) as holder:
            before = (await holder.get("/sessions")).status_code
            await client.delete(f"/keys/{first['id']}")
            after = (await holder.get("/sessions")).status_code
    assert again["id"] == first["id"]
    assert again["token"] is None
    assert (before, after) == (200, 401)


async def test_concurrent_repeats_open_one_session(world: World) -> None:
    async with world.built.client(world.own) as client:
        header = {"idempotency-key": "many-1"}
        answers_ = await asyncio.gather(
            *(client.post("/sessions", json={"model": "tales"}, headers=header) for _ in range(8))
        )
    codes = {answer.status_code for answer in answers_}
    opened = {answer.json()["session_id"] for answer in answers_ if answer.status_code == 201}
    assert codes <= {201, 409}
    assert len(opened) == 1


async def test_pages_follow_each_other_and_a_limit_beyond_is_refused(world: World) -> None:
    async with world.built.client(world.own) as client:
        for _ in range(3):
            last = (await client.post("/sessions", json={"model": "tales"})).json()
        everything = (
            await client.get("/sessions", params={"limit": 200, "at_least": last["position"]})
        ).json()
        seen: list[str] = []
        after: dict[str, str] = {}
        while True:
            page = (await client.get("/sessions", params={"limit": 2, **after})).json()
            seen += [item["session_id"] for item in page["items"]]
            if not page["has_more"]:
                break
            after = {"after": seen[-1]}
        refused = await client.get("/sessions", params={"limit": 201})
        lost = await client.get("/sessions", params={"after": NOBODY})
    assert seen == [item["session_id"] for item in everything["items"]]
    assert len(seen) >= 3
    assert seen[0] == last["session_id"]
    assert refused.json()["code"] == "limit_too_large"
    assert lost.json()["param"] == "after"


async def feed_of(built: House, token: str, count: int, **options: Any) -> list[dict[str, Any]]:
    """The first `count` events of a feed."""
    found: list[dict[str, Any]] = []
    async with built.client(token) as client, client.stream("GET", "/feed", **options) as answer:
        assert answer.status_code == 200
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                found.append(json.loads(line[6:]))
                if len(found) == count:
                    return found
    raise AssertionError(f"the feed ended after {len(found)} events")


async def test_the_feed_starts_where_it_is_told_and_goes_on_after_the_last_event(world: World) -> None:
    whole = await asyncio.wait_for(feed_of(world.built, "", 6, params={"from": 1}), 30)
    headers = {"last-event-id": str(whole[2]["position"])}
    rest = await asyncio.wait_for(feed_of(world.built, "", 3, headers=headers), 30)
    pools = await asyncio.wait_for(feed_of(world.built, "", 2, params={"from": 0, "kind": "pool"}), 30)
    assert whole[0]["sequence"] == 1
    assert rest == whole[3:6]
    assert [event["type"] for event in pools] == ["pool.proposed.v1", "pool.member_accepted.v1"]


async def test_a_key_sees_its_own_sessions_in_the_feed_and_no_others(world: World) -> None:
    async with world.built.client(world.other) as other, world.built.client(world.own) as own:
        theirs = (await other.post("/sessions", json={"model": "tales"})).json()
        mine = (await own.post("/sessions", json={"model": "tales"})).json()
    options = {"params": {"from": theirs["position"], "kind": "session"}}
    [seen] = await asyncio.wait_for(feed_of(world.built, world.own, 1, **options), 30)
    [all_seen] = await asyncio.wait_for(feed_of(world.built, "", 1, **options), 30)
    assert seen["aggregate_id"] == mine["session_id"]
    assert all_seen["aggregate_id"] == theirs["session_id"]


async def test_of_a_free_answer_nobody_signs_receipts_and_a_transcript_is_refused(world: World) -> None:
    body = {"model": "tales", "messages": ASK, "max_tokens": 4}
    async with world.built.client(world.own) as client:
        for path, more in (("chat/completions", body), ("completions", {"model": "tales", "prompt": "One"})):
            refused = await client.post(f"/v1/{path}", json={**more, "transcript": True})
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, "transcript")
        answer = await client.post("/v1/chat/completions", json={**body, "transcript": False})
        assert "computepool" not in answer.json()
        names = (answer.headers[f"x-computepool-{name}"] for name in ("session", "request"))
        where = "/sessions/{}/requests/{}/receipts".format(*names)
        found = (await client.get(where)).json()
        assert (found["receipts_root"], found["terms"], found["receipts"]) == (None, None, [])
        assert found["receipts_missing"] == []
        unknown = await client.get(where.replace(found["request_id"], NOBODY))
        assert (unknown.status_code, unknown.json()["code"]) == (404, "receipts_unknown")


async def test_the_page_needs_nothing_from_elsewhere(world: World) -> None:
    async with world.built.client(None) as client:
        page = await client.get("/docs")
        metrics = (await client.get("/metrics")).text
        missing = await client.get("/nowhere")
    assert "curl" in page.text
    assert "<script" not in page.text
    assert not re.findall(r'(?:src|href)=["\']https?:', page.text)
    for name in re.findall(r"`(computepool_\w+)`", (DOCS / "api.md").read_text()):
        assert name in metrics
    assert missing.json()["code"] == "route_not_found"


async def test_the_command_line_maps_a_pools_layers(world: World) -> None:
    async def said(*arguments: str) -> tuple[int, str, str]:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.cli", *arguments),
            env={
                **os.environ,
                "COMPUTEPOOL_GATEWAY_URL": world.built.url,
                "COMPUTEPOOL_TOKEN": world.built.operator_token,
                "COMPUTEPOOL_STATE_DIR": str(world.built.directory / "nothing-runs-here"),
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(child.communicate(), 60)
        return child.returncode or 0, out.decode(), err.decode()

    status, text, _ = await said("pools", "map", "tales")
    assert status == 0
    assert re.search(r"^only  ?E#+H 0-\d+ +ready +1B/8.0G +0/4 +\d+$", text, re.M), text
    assert "every layer is served" in text
    assert max(map(len, text.splitlines())) <= 80
    status, text, _ = await said("pools", "map", "--json")
    [shown] = [one for one in json.loads(text)["pools"] if one["pool_id"] == world.pool_id]
    [row] = shown["maps"][0]["rows"]
    assert (row["node_id"], row["state"], row["kv_slots_used"]) == (world.peer.node_id, "ready", 0)
    assert (row["embeddings"], row["head"], shown["layers_not_served"]) == (True, True, [])
    listed, plain = await said("pools", "list", "--json"), await said("pools", "--json")
    assert listed[1] == plain[1]
    assert json.loads((await said("pools", world.pool_id))[1])["name"] == "tales"
    status, _, err = await said("pools", "map", "nobody")
    assert status == 1
    assert "pool_unknown" in err
