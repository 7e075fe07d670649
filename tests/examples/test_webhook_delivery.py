"""The example of webhooks, against a real HTTP server. Its handler is tested in tests/http."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator
from types import ModuleType
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook

from meshhook import InvalidSettingError
from meshhook.testing import QueueDatabase, run_job
from support.receivers import SECRET, Receiver, delivery_to, running_receiver


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A running receiver."""
    async with running_receiver() as receiver:
        yield receiver


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The example's module, imported with settings that let it reach the receiver."""
    monkeypatch.setenv("MESHHOOK_WEBHOOK_SECRET", SECRET)
    monkeypatch.setenv("MESHHOOK_WEBHOOK_ALLOW_HTTP", "true")
    monkeypatch.setenv("MESHHOOK_WEBHOOK_ALLOWED_NETWORKS", "127.0.0.1")
    module = importlib.import_module("meshhook.demo.webhook_delivery")
    return importlib.reload(module)


async def test_a_delivery_is_signed(example: ModuleType, receiver: Receiver) -> None:
    """The receiver can verify it."""
    result = await run_job(example.deliver, delivery_to(receiver.url))
    assert result.outcome == "succeeded"
    [(headers, body)] = receiver.requests
    Webhook(SECRET).verify(body, headers)


async def test_a_receiver_that_is_gone_is_noted(
    example: ModuleType, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """By the job and its project, not by the URL, which may be secret."""
    receiver.status = 410
    result = await run_job(example.deliver, delivery_to(receiver.url), project_id="tenant-7")
    assert (result.outcome, result.error_type) == ("dead_lettered", "HTTP 410")
    assert "the receiver of job 1 of project tenant-7 is gone" in caplog.text
    assert "t0ken" not in caplog.text


async def test_a_dead_letter_is_delivered_by_a_replay(
    example: ModuleType, receiver: Receiver, meshhook_database: QueueDatabase
) -> None:
    """A delivery that keeps failing becomes a dead letter, which is there until it is replayed."""
    receiver.statuses = [503, 503, 200]
    payload: Any = delivery_to(receiver.url, id="evt_1")
    await meshhook_database.create_queue("webhooks", max_retry_attempts=2)
    await meshhook_database.enqueue("webhooks", payload, run_id="run-1")
    await meshhook_database.drain({"webhooks": example.deliver}, with_retries=True)
    await meshhook_database.assert_dead_lettered(
        "webhooks", {"id": "evt_1"}, run_id="run-1", error_type="ReceiverError", attempts=2
    )

    await meshhook_database.replay("webhooks")

    drained = await meshhook_database.drain({"webhooks": example.deliver})
    assert drained.counts == {"succeeded": 1}
    assert {headers["webhook-id"] for headers, _ in receiver.requests} == {"evt_1"}


def test_without_a_secret_the_worker_does_not_start(
    example: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the variable."""
    monkeypatch.delenv("MESHHOOK_WEBHOOK_SECRET")
    with pytest.raises(InvalidSettingError, match="MESHHOOK_WEBHOOK_SECRET"):
        importlib.reload(example)
