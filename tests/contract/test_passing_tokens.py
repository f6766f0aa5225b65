"""A process that makes itself an operator's token, on a real PostgreSQL: nobody was shown one by that."""

from pydantic import SecretStr

from services import credentials
from services.settings import Settings
from services.stack.client import operator_token
from tests.postgres import database


async def test_a_first_start_still_shows_a_token_while_a_process_holds_one_of_its_own() -> None:
    async with database() as url:
        settings = Settings().model_copy(update={"database_url": SecretStr(url)})
        engine = credentials.engine_of(url)
        store = credentials.Credentials(engine)
        async with operator_token(settings, "coalition follower") as token:
            assert await store.verify(token) is not None
            assert not await credentials.exists(url, "operator")
            await credentials.create(url, "operator", "first start")
            assert await credentials.exists(url, "operator")
        assert await store.verify(token) is None
        assert not await credentials.exists(url, "api_key")
        await engine.dispose()
