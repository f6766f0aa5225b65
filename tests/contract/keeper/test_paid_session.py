"""A paid session as the keeper carries it: real chain, log and database; afterwards no wei is missing."""

from tests.keeping import CAP, house


async def test_two_requests_and_a_close_come_to_the_wei() -> None:
    async with house() as here, here.keeping():
        key, _ = await here.pay(600)
        await here.start(key, 1)
        await here.flows(key, 1)
        await here.chain.wait(7)
        await here.start(key, 2)
        await here.flows(key, 2)
        await here.chain.wait(5)
        await here.end(key, 1)
        await here.flows(key, 1)
        await here.chain.wait(3)
        await here.end(key, 2)
        stopped = await here.flows(key, 0)
        assert stopped.paid_wei > 0
        await here.close(key)
        settled = await here.settled(key)
        assert (settled.requests, settled.paid_wei) == (2, str(CAP))
        assert int(settled.refund_wei) == CAP - stopped.paid_wei
        report = await here.sound()
        assert (report.sessions, report.settled, report.operators) == (1, 1, 2)
