"""Testing an app: connecting it to the test's database, draining it, running one handler."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from meshhook import App, InvalidHandlerError, InvalidSettingError, Job, RetryAfter
from meshhook.testing import QueueDatabase, run_job


class Order(BaseModel):
    """The payload of an order."""

    order_id: int


app = App()
shipped: list[int] = []


@app.job("orders", max_retry_attempts=2, retry_backoff_base_ms=30_000)
async def ship(order: Order) -> None:
    """Ship an order, and tell its customer."""
    if order.order_id < 0:
        raise ValueError("no such order")
    shipped.append(order.order_id)
    await app.enqueue("mails", {"order": order.order_id}, delay=60)


@app.job("mails")
async def mail(job: Job[Any]) -> None:
    """Send a mail at the second attempt."""
    if job.attempt == 1:
        raise RetryAfter(3_600)


@pytest.fixture(autouse=True)
def nothing_shipped() -> None:
    """Forget what other tests have shipped."""
    shipped.clear()


async def test_an_app_works_on_the_tests_database(meshhook_database: QueueDatabase) -> None:
    """Inside the block its queues exist, and its jobs can be asserted and drained."""
    async with meshhook_database.connect(app):
        await ship.enqueue(Order(order_id=1), run_id="run-1")
        [job] = await meshhook_database.assert_enqueued(ship, {"order_id": 1}, run_id="run-1")
        assert job.queue == "orders"

        drained = await meshhook_database.drain(app)

        assert (drained.counts, shipped) == ({"succeeded": 1}, [1])
        await meshhook_database.assert_enqueued(mail, {"order": 1}, state="scheduled")
        assert await meshhook_database.advance(60, mail) == 1
        assert (await meshhook_database.drain(mail, with_retries=True)).counts == {
            "retried": 1,
            "succeeded": 1,
        }
        await meshhook_database.refute_enqueued()


async def test_one_queue_of_an_app_can_be_drained(meshhook_database: QueueDatabase) -> None:
    """A queue is chosen by its handler, or by its name beside the app."""
    async with meshhook_database.connect(app):
        await ship.enqueue(Order(order_id=1))
        assert (await meshhook_database.drain(app, "mails")).counts == {}
        assert (await meshhook_database.drain(ship)).counts == {"succeeded": 1}
        with pytest.raises(InvalidHandlerError, match="there are: orders, mails"):
            await meshhook_database.drain(app, "other")


async def test_dead_letters_of_a_handler(meshhook_database: QueueDatabase) -> None:
    """The queue has the settings that the app declares, and can be named by its handler."""
    async with meshhook_database.connect(app):
        await ship.enqueue(Order(order_id=-1))
        drained = await meshhook_database.drain(app, with_retries=True)
        assert drained.counts == {"retried": 1, "dead_lettered": 1}
        [letter] = await meshhook_database.assert_dead_lettered(ship, error_type="ValueError")
        assert (letter.attempts, letter.payload) == (2, {"order_id": -1})
        assert len(await meshhook_database.replay(ship)) == 1
        await meshhook_database.assert_enqueued(ship, Order(order_id=-1), count=1)


async def test_an_app_on_another_database_is_not_drained(meshhook_database: QueueDatabase) -> None:
    """An app that uses another database is refused, since its handlers would enqueue there."""
    other = App("postgresql://nobody@127.0.0.1:1/other")
    with pytest.raises(InvalidSettingError, match=r"meshhook_database\.connect\(app\)"):
        await meshhook_database.drain(other)


async def test_an_app_stays_away_from_its_own_database_after_a_test(
    meshhook_database: QueueDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the block it does not return to the database that the environment names."""
    monkeypatch.setenv("MESHHOOK_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/real")
    async with meshhook_database.connect(app):
        pass
    assert app.address().url == meshhook_database.url


async def test_a_handler_of_an_app_is_run_with_what_the_app_declares() -> None:
    """run_job uses the queue and the settings that the app declares, without jitter."""
    failed = await run_job(ship, Order(order_id=-1))
    assert (failed.outcome, failed.delay_seconds, failed.job.queue) == ("retried", 30, "orders")
    assert (await run_job(ship, {"order_id": -1}, attempt=2)).outcome == "dead_lettered"
    assert (await run_job(ship, {"order": 1})).error_type == "InvalidPayload"
    patient = await run_job(ship, {"order_id": -1}, attempt=2, settings={"max_retry_attempts": 9})
    assert (patient.outcome, patient.delay_seconds) == ("retried", 60)
    assert (await run_job(mail, {}, attempt=2)).outcome == "succeeded"
