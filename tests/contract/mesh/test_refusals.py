"""Every wrong call gets a named refusal and changes nothing; the API serves local programs only."""

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.mesh_nodes import MeshNode, axl_node_binary, make_key, mesh, until


async def ask(node: MeshNode, method: str, path: str, **kwargs: Any) -> tuple[int, dict[str, Any]]:
    async with node.client.request(method, node.api_url + path, **kwargs) as answer:
        text = await answer.text()
        return answer.status, json.loads(text) if text.startswith("{") else {}


async def test_wrong_calls_are_refused_by_name() -> None:
    limit = 100_000
    async with mesh(2, max_message_size=limit, dial_timeout_ms=1000, each={0: {"dial_timeout_ms": 6000}}) as (
        a,
        b,
    ):
        stranger = "ab" * 32
        cases = [
            ({}, b"x", 400, "bad_peer_id"),
            ({"X-Destination-Peer-Id": ""}, b"x", 400, "bad_peer_id"),
            ({"X-Destination-Peer-Id": b.peer_id[:-1]}, b"x", 400, "bad_peer_id"),
            ({"X-Destination-Peer-Id": b.peer_id + "0"}, b"x", 400, "bad_peer_id"),
            ({"X-Destination-Peer-Id": "zz" * 32}, b"x", 400, "bad_peer_id"),
            ({"X-Destination-Peer-Id": b.peer_id}, bytes(limit + 1), 413, "message_too_large"),
        ]
        for headers, body, status, code in cases:
            assert await ask(a, "POST", "/send", headers=headers, data=body) == (
                status,
                {**NAMED, "code": code},
            )
        assert await a.send(b.peer_id, bytes(limit)) == 200
        assert await b.recv() == (a.peer_id, bytes(limit))
        # chunked, so that the size is only known on the way
        status, told = await ask(
            a, "POST", "/send", headers={"X-Destination-Peer-Id": b.peer_id}, data=chunks(limit + 1)
        )
        assert (status, told["code"]) == (413, "message_too_large")
        status, _ = await ask(
            a, "POST", "/send", headers={"X-Destination-Peer-Id": b.peer_id}, data=chunks(limit)
        )
        assert status == 200
        assert await b.recv() == (a.peer_id, b"c" * limit)
        status, told = await ask(b, "POST", "/send", headers={"X-Destination-Peer-Id": stranger}, data=b"x")
        assert (status, told["code"]) == (502, "peer_unreachable")
        for method, path in [
            ("GET", "/send"),
            ("POST", "/recv"),
            ("PUT", "/topology"),
            ("DELETE", "/metrics"),
        ]:
            status, told = await ask(a, method, path)
            assert (status, told["code"]) == (405, "method_not_allowed")
        assert (await ask(a, "GET", "/nowhere"))[0] == 404
        for wait in ("soon", "-1", "1.5"):
            assert (await ask(a, "GET", f"/recv?wait={wait}"))[1]["code"] == "bad_wait"
        assert await b.recv(None) is None


class _Anything:
    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and other != ""

    __hash__ = None  # type: ignore[assignment]


NAMED: dict[str, Any] = {"code": _Anything(), "detail": _Anything(), "remedy": _Anything()}


async def chunks(size: int) -> Any:
    for begin in range(0, size, 8192):
        yield b"c" * min(8192, size - begin)


async def test_a_peer_with_a_smaller_limit_closes_and_the_sender_goes_on() -> None:
    async with mesh(2, each={1: {"max_message_size": 1000}}) as (a, b):
        assert await a.send(b.peer_id, bytes(2000)) == 200

        async def closed() -> bool:
            return (await b.metrics())["axl_oversize_total"] >= 1 and (await a.metrics())["axl_links_up"] == 0

        await until("the oversized message ended the connection", closed)
        assert await a.send(b.peer_id, b"fits") == 200
        assert await b.recv() == (a.peer_id, b"fits")
        assert await b.recv(None) is None


async def test_only_local_programs_are_served() -> None:
    async with mesh(1) as (node,):
        port = node.api_url.rsplit(":", 1)[1]
        for host in ("evil.example", f"evil.example:{port}", "10.0.0.1", "127.0.0.1.evil.example", ""):
            assert await raw_status(int(port), f"GET /recv HTTP/1.1\r\nHost: {host}\r\n\r\n") == 403, host
        for host in ("localhost", f"127.0.0.1:{port}", f"[::1]:{port}", "LOCALHOST:1"):
            assert await raw_status(int(port), f"GET /recv HTTP/1.1\r\nHost: {host}\r\n\r\n") == 204, host
        for origin in ("https://evil.example", f"http://127.0.0.1:{port}", "null"):
            status, told = await ask(node, "GET", "/recv", headers={"Origin": origin})
            assert (status, told["code"]) == (403, "origin_refused")


async def raw_status(port: int, request: str) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request.encode())
        line = await asyncio.wait_for(reader.readline(), 10)
        return int(line.split()[1])
    finally:
        writer.close()


async def test_the_token_is_asked_for_everywhere_but_healthz() -> None:
    async with mesh(1, api_token="s3cret") as (node,), aiohttp.ClientSession() as bare:
        assert (await node.topology())["our_public_key"] == node.peer_id
        for path in ("/recv", "/topology", "/metrics", "/nowhere"):
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic s3cret"}):
                async with bare.get(node.api_url + path, headers=headers) as answer:
                    assert answer.status == 401
                    assert answer.headers["WWW-Authenticate"] == "Bearer"
        async with bare.get(node.api_url + "/healthz") as answer:
            assert answer.status == 200
        assert "s3cret" not in node.log_text()


async def test_the_api_may_live_on_a_socket_of_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "axl.sock"
    async with mesh(1, api_socket=str(path)) as (node,):
        assert path.stat().st_mode & 0o077 == 0
        assert await node.send(node.peer_id, b"to myself") == 200
        assert await node.recv() == (node.peer_id, b"to myself")
        await node.restart(kill=True)  # the stale socket is in the way and is replaced
        assert (await node.topology())["our_public_key"] == node.peer_id
    assert not path.exists()


async def test_a_peer_that_is_not_on_the_list_is_refused_and_counted() -> None:
    async with mesh(3, allow_only={0: [1]}) as (guarded, friend, stranger):
        assert await friend.send(guarded.peer_id, b"hello") == 200
        assert await guarded.recv() == (friend.peer_id, b"hello")
        status, told = await ask(
            stranger, "POST", "/send", headers={"X-Destination-Peer-Id": guarded.peer_id}, data=b"let me in"
        )
        assert (status, told["code"]) == (502, "peer_unreachable")
        assert (await guarded.metrics())['axl_refused_total{why="not_allowed"}'] >= 1
        assert await guarded.recv(None) is None
        # the list is about who may speak to us: the guarded node still relays and still sends

        async def relayed() -> bool:
            return await stranger.send(friend.peer_id, b"by way of the guarded one") == 200

        await until("a path by way of the guarded node", relayed, 60)
        assert await friend.recv() == (stranger.peer_id, b"by way of the guarded one")
        assert await guarded.send(stranger.peer_id, b"from me") == 200
        assert await stranger.recv() == (guarded.peer_id, b"from me")


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"max_mesage_size": 5}, "config_bad_key"),
        ({"api_port": "9002"}, "config_bad_key"),
        ({"router_addr": "http://127.0.0.1"}, "config_router_unsupported"),
        ({"a2a_addr": "http://127.0.0.1"}, "config_router_unsupported"),
        ({"max_message_size": 0}, "config_bad_value"),
        ({"mtu": 500}, "config_bad_value"),
        ({"allowed_peers": ["abc"]}, "config_bad_value"),
        ({"bridge_addr": "example.org"}, "config_bad_value"),
        ({"IfName": "tun0"}, "config_unsupported_key"),
        ({"PrivateKeyPath": "no-such-key.pem"}, "key_missing"),
        ({"Listen": ["gopher://127.0.0.1:0"]}, "listen_bad_uri"),
    ],
)
def test_a_config_that_cannot_be_honoured_is_refused(
    tmp_path: Path, settings: dict[str, Any], code: str
) -> None:
    make_key(tmp_path / "key.pem")
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"PrivateKeyPath": str(tmp_path / "key.pem"), "api_port": 0, **settings}))
    done = subprocess.run(
        [axl_node_binary(), "-config", path], capture_output=True, text=True, timeout=20, cwd=tmp_path
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert code in json.loads(done.stderr.splitlines()[-1])["error"]


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    public = make_key(tmp_path / "key.pem")
    assert len(bytes.fromhex(public)) == 32
    assert (tmp_path / "key.pem").stat().st_mode & 0o077 == 0
    before = (tmp_path / "key.pem").read_bytes()
    again = subprocess.run(
        [axl_node_binary(), "-genkey", tmp_path / "key.pem"], capture_output=True, text=True
    )
    assert again.returncode == 1
    assert "key_not_written" in again.stderr
    assert (tmp_path / "key.pem").read_bytes() == before
