"""Vouchers in a real PostgreSQL: one of them opens one session, however many send it at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from services import vouchers
from services.chain import wallets
from services.credentials import engine_of
from services.settings import Settings
from services.vouchers import VoucherRow, VoucherUsed
from tests.postgres import database

ROW = VoucherRow(
    31337, "0x" + "Aa" * 20, "0x" + "Bb" * 20, "0x" + "cc" * 32, "S1", "P1", "0x" + "dd" * 20,
    {"rate": "1000000000000"}, {"value": "5"},
)  # fmt: skip


@asynccontextmanager
async def engine() -> AsyncIterator[AsyncEngine]:
    async with database() as url:
        made = engine_of(url)
        try:
            yield made
        finally:
            await made.dispose()


async def test_one_of_fifty_claims_wins_and_the_others_are_told_whose_it_is() -> None:
    async with engine() as db:
        rows = [replace(ROW, session_id=f"S{n}") for n in range(50)]
        answers = await asyncio.gather(*(vouchers.claim(db, row) for row in rows), return_exceptions=True)
        won = [answer for answer in answers if isinstance(answer, VoucherRow)]
        lost = [answer for answer in answers if isinstance(answer, VoucherUsed)]
        assert (len(won), len(lost)) == (1, 49)
        assert all(used.row.session_id == won[0].session_id for used in lost)


async def test_the_same_claim_is_gone_on_with_and_what_was_settled_stays_so() -> None:
    async with engine() as db:
        first = await vouchers.claim(db, ROW)
        assert await vouchers.claim(db, ROW) == first
        assert first.terms == ROW.terms
        assert [row.session_id for row in await vouchers.in_state(db, "claimed")] == ["S1"]
        await vouchers.move(db, "S1", "failed", "insufficient_balance")
        await vouchers.move(db, "S1", "settled")
        await vouchers.move(db, "S1", "failed", "too late")
        found = await vouchers.of_session(db, "S1")
        assert found is not None
        assert (found.state, found.reason) == ("settled", None)
        with pytest.raises(VoucherUsed):
            await vouchers.claim(db, replace(ROW, nonce="0x" + "ee" * 32))


def test_every_role_has_a_key_of_its_own_that_stays(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    made = {role: wallets.wallet(settings, role).address for role in wallets.ROLES}
    assert len(set(made.values())) == len(wallets.ROLES)
    assert {role: wallets.wallet(settings, role).address for role in wallets.ROLES} == made
    files = list((tmp_path / "keys" / "chain").iterdir())
    assert {path.name for path in files} == {f"{role}.key" for role in wallets.ROLES}
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)
