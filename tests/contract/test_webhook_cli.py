"""`computepool webhook` as it is typed: what was told, again, to another address, and to try it out."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from services.cli import app
from services.cli_output import Failure
from services.credentials import engine_of
from services.keeper.deliveries import Deliveries
from services.keeper.hook_secret import HookSecret
from services.keeper.inbox import Inbox
from services.keeper.signature import sign
from services.settings import Settings
from services.stack.node import ROOT
from tests.aggregates import ulid
from tests.callbacks import Received, received
from tests.postgres import database

WITHIN_S = 60.0
PATH = "/webhooks/keeperhub"
BODY = json.dumps({"event": "stream_started", "run_key": ulid(1), "tx_hash": "0x" + "ab" * 32}).encode()


@dataclass
class Desk:
    """A database and a key, and somebody who is called back at `receiver.url`."""

    environment: dict[str, str]
    secret: HookSecret
    deliveries: Deliveries
    inbox: Inbox
    receiver: Received

    async def typed(self, *arguments: str) -> asyncio.subprocess.Process:
        argv = (sys.executable, "-m", "services.cli", "webhook", *arguments)
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            *argv, cwd=ROOT, env=self.environment, stdout=pipe, stderr=pipe
        )

    async def said(self, *arguments: str) -> tuple[int, str]:
        """Exit code and what was printed, or the code of the failure, of a command run in a thread."""
        found = await asyncio.to_thread(
            CliRunner().invoke, app, ["webhook", *arguments], env=self.environment
        )
        if isinstance(found.exception, Failure):
            return 1, found.exception.code
        if found.exception is not None and not isinstance(found.exception, SystemExit):
            raise found.exception
        return found.exit_code, found.stdout

    def right(self, headers: dict[str, str], body: bytes, path: str = PATH) -> bool:
        """Whether what was received is signed as docs/webhooks.md says."""
        signed = sign(
            self.secret.key,
            method="POST",
            path=path,
            caller=headers["x-keeperhub-caller"],
            delivery=headers["x-keeperhub-delivery"],
            execution=headers["x-keeperhub-execution"],
            timestamp_unix_s=int(headers["x-keeperhub-timestamp"]),
            body=body,
        )
        return headers["x-keeperhub-signature"] == f"v1={signed}"


@contextlib.asynccontextmanager
async def desk(directory: Path) -> AsyncIterator[Desk]:
    async with database() as url, received() as receiver:
        secret = HookSecret.of(Settings(state_dir=directory))
        engine = engine_of(url)
        environment = os.environ | {
            "COMPUTEPOOL_STATE_DIR": str(directory),
            "DATABASE_URL": url,
            "COMPUTEPOOL_GATEWAY_URL": receiver.url,
        }
        yield Desk(environment, secret, Deliveries(engine), Inbox(engine), receiver)
        await engine.dispose()


async def test_a_delivery_is_shown_with_its_attempts_and_sent_again_byte_for_byte(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        url = here.receiver.url + PATH
        await here.deliveries.attempted("d-1", "exec_1", url, BODY, None, "refused", 3)
        await here.deliveries.attempted("d-1", "exec_1", url, BODY, 503, "HTTP 503", 9)
        await here.deliveries.attempted("d-2", "exec_1", url, BODY, 200, None, 9)
        listed = await here.said("list", "--json")
        resent = await here.said("resend", "d-1")
        assert await here.said("resend", "d-9") == (1, "delivery_unknown")
        assert listed[0] == 0
        shown = json.loads(listed[1])["deliveries"]
        assert [one["delivery"] for one in shown] == ["d-2", "d-1"]
        assert [attempt["status"] for attempt in shown[1]["attempts"][:2]] == [None, 503]
        assert (shown[1]["event"], shown[1]["run_key"], shown[1]["outcome"]) == (
            "stream_started",
            ulid(1),
            None,
        )
        assert resent[0] == 0
        [(headers, body)] = here.receiver.bodies
        assert (headers["x-keeperhub-delivery"], headers["x-keeperhub-execution"]) == ("d-1", "exec_1")
        assert body == json.loads(BODY)
        assert here.right(headers, BODY)
        again = await here.deliveries.of("d-1")
        assert again is not None
        assert [attempt.status for attempt in again.attempts] == [None, 503, 200]
        table = await here.said("list")
        assert "d-1" in table[1]
        assert "stream_started" in table[1]


async def test_new_deliveries_are_forwarded_and_old_ones_are_not(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        await here.deliveries.attempted("d-old", "exec_1", "http://gone/x", BODY, 200, None, 1)
        child = await here.typed("listen", "--forward-to", here.receiver.url + "/mine", "--json")
        assert child.stdout is not None
        try:
            began = json.loads(await asyncio.wait_for(child.stdout.readline(), WITHIN_S))
            assert began["listening"] is True
            await here.deliveries.attempted("d-new", "exec_2", "http://gone/x", BODY, None, "away", 1)
            line = json.loads(await asyncio.wait_for(child.stdout.readline(), WITHIN_S))
        finally:
            child.send_signal(2)
            code = await asyncio.wait_for(child.wait(), WITHIN_S)
        assert (line["delivery"], line["status"], code) == ("d-new", 200, 130)
        [(headers, _)] = here.receiver.bodies
        assert headers["x-keeperhub-delivery"] == "d-new"
        assert here.right(headers, BODY, "/mine"), "signed for where it goes"
        kept = await here.deliveries.of("d-new")
        assert kept is not None
        assert len(kept.attempts) == 1, "a copy is no attempt"


async def test_a_test_event_is_about_a_run_that_told_it(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        assert await here.said("trigger", "stream_started") == (1, "run_needed")
        await here.inbox.take(
            proof="signature",
            delivery="d-7",
            key_id="k",
            execution="e",
            run_key=ulid(7),
            event="stream_started",
            transaction_hash=None,
        )
        sent = await here.said("trigger", "stream_started", "--json")
        listed = await here.said("list", "--received", "--json")
        lost = await here.said("trigger", "stream_started", "--to", "http://127.0.0.1:9/x", "--json")
        answer: dict[str, Any] = json.loads(sent[1])
        assert (sent[0], answer["taken"], answer["status"]) == (0, True, 200)
        [(headers, body)] = here.receiver.bodies
        assert body == {"event": "stream_started", "run_key": ulid(7), "tx_hash": ""}
        assert here.right(headers, json.dumps(body).encode())
        assert [one["run_key"] for one in json.loads(listed[1])["received"]] == [ulid(7)]
        assert (lost[0], json.loads(lost[1])["taken"], json.loads(lost[1])["status"]) == (1, False, None)


async def test_deliveries_are_forgotten_after_their_time(tmp_path: Path) -> None:
    async with desk(tmp_path) as here:
        await here.deliveries.attempted("d-1", "exec_1", "http://gone/x", BODY, 200, None, 1)
        assert await here.deliveries.prune() == 0
        async with here.deliveries._engine.begin() as connection:
            await connection.exec_driver_sql(
                "UPDATE webhook_deliveries SET created_at = now() - interval '31 days'"
            )
        assert await here.deliveries.prune() == 1
        assert await here.deliveries.of("d-1") is None
