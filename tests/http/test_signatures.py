"""Secrets, and the signatures that receivers verify."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from meshhook import DeadLetter, InvalidSettingError, Job
from meshhook.http import WebhookHandler
from meshhook.testing import run_job
from support.receivers import OLD_SECRET, SECRET, Receiver, delivery_to, make_handler


async def test_a_receiver_can_verify_what_it_gets(receiver: Receiver) -> None:
    """By the library of Standard Webhooks, over the very bytes that arrived."""
    await run_job(make_handler(), delivery_to(receiver.url))
    [(headers, body)] = receiver.requests
    found = Webhook(SECRET).verify(body, headers)
    assert found == {"type": "order.paid", "data": {"city": "Größe"}}
    assert headers["content-type"] == "application/json"
    assert receiver.targets == [("POST", "/hook?token=t0ken")]


async def test_during_a_rotation_both_secrets_verify(receiver: Receiver) -> None:
    """A receiver that has only one of them accepts the delivery."""
    await run_job(make_handler(secret=[SECRET, OLD_SECRET]), delivery_to(receiver.url))
    [(headers, body)] = receiver.requests
    assert len(headers["webhook-signature"].split(" ")) == 2
    Webhook(SECRET).verify(body, headers)
    Webhook(OLD_SECRET).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_" + "A" * 32).verify(body, headers)


async def test_secrets_come_from_the_environment(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several are separated by spaces."""
    monkeypatch.setenv("MESHHOOK_WEBHOOK_SECRET", f"{SECRET} {OLD_SECRET}")
    await run_job(make_handler(secret=None), delivery_to(receiver.url))
    [(headers, body)] = receiver.requests
    Webhook(OLD_SECRET).verify(body, headers)


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_destination_has_a_secret_of_its_own(receiver: Receiver, *, is_async: bool) -> None:
    """A function, plain or async, finds it for the job, by its project for example."""
    secrets = {"tenant-1": SECRET, "tenant-2": OLD_SECRET}

    def find(job: Job[Any]) -> str:
        return secrets[job.project_id or ""]

    async def find_slowly(job: Job[Any]) -> str:
        return find(job)

    handler = make_handler(secret=find_slowly if is_async else find)
    await run_job(handler, delivery_to(receiver.url), project_id="tenant-2")
    [(headers, body)] = receiver.requests
    Webhook(OLD_SECRET).verify(body, headers)


@pytest.mark.parametrize("found", [None, [], "", "whsec_short", 5, [SECRET, 5], b"x", ["x"] * 11])
async def test_a_lookup_without_a_usable_secret_ends_in_a_dead_letter(
    receiver: Receiver, found: Any
) -> None:
    """Nothing is sent, and the message does not show what was found."""
    result = await run_job(make_handler(secret=lambda _: found), delivery_to(receiver.url))
    assert (result.outcome, result.error_type) == ("dead_lettered", "InvalidSecret")
    assert "short" not in (result.error_message or "")
    assert receiver.requests == []


async def test_what_a_lookup_raises_decides(receiver: Receiver) -> None:
    """An exception is retried, an outcome is obeyed."""

    def broken(_: Job[Any]) -> str:
        raise LookupError("no database")

    def unknown(_: Job[Any]) -> str:
        raise DeadLetter("no such tenant", error_type="NoTenant")

    first = await run_job(make_handler(secret=broken), delivery_to(receiver.url))
    assert (first.outcome, first.error_type) == ("retried", "LookupError")
    second = await run_job(make_handler(secret=unknown), delivery_to(receiver.url))
    assert (second.outcome, second.error_type) == ("dead_lettered", "NoTenant")


def test_without_a_secret_there_is_no_handler() -> None:
    """The message names both ways to give one."""
    with pytest.raises(InvalidSettingError, match=r"secret=.*MESHHOOK_WEBHOOK_SECRET"):
        WebhookHandler()


MALFORMED = [
    "",
    "whsec_",
    "not base64!",
    "whsec_c2hvcnQ=",
    SECRET.removeprefix("whsec_"),
    SECRET + "\n",
    SECRET[:-1] + "!",
]


@pytest.mark.parametrize("secret", [*MALFORMED, ["whsec_c2hvcnQ=", SECRET], []])
def test_a_malformed_secret_is_refused_and_not_shown(secret: Any) -> None:
    """When the handler is made, rather than at each delivery."""
    with pytest.raises(InvalidSettingError, match=r"^secret: ") as caught:
        WebhookHandler(secret=secret)
    assert caught.value.__suppress_context__
    assert "c2hvcnQ" not in str(caught.value)
    assert "not base64" not in str(caught.value)


async def test_a_secret_is_not_shown_where_a_receiver_sends_it_back(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither in the history nor in the log."""
    receiver.status, receiver.body = 400, f"my secret is {SECRET}".encode()
    with caplog.at_level(logging.DEBUG):
        result = await run_job(make_handler(), delivery_to(receiver.url))
    assert "my secret is (hidden)" in (result.error_message or "")
    assert SECRET not in caplog.text
