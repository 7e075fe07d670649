"""The payload of a delivery."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from meshhook import App, InvalidJobError
from meshhook.http import WebhookDelivery
from meshhook.testing import make_job, run_job
from support.receivers import Receiver, delivery_to, make_handler

URL = "https://example.com/hook"


async def test_the_id_is_the_same_in_every_attempt(receiver: Receiver) -> None:
    """Made from the job if it has none of its own, and different for another job."""
    handler = make_handler()
    delivery = WebhookDelivery(url=receiver.url, body={})
    job, other = make_job(delivery, msg_id=7), make_job(delivery, msg_id=8)
    named = make_job(WebhookDelivery(url=receiver.url, body={}, id="evt_1"))
    for each in (job, job, other, named):
        await handler.deliver(each)
    ids = [headers["webhook-id"] for headers, _ in receiver.requests]
    assert ids[0] == ids[1] != ids[2]
    assert ids[0].startswith("msg_")
    assert ids[3] == "evt_1"


async def test_headers_of_its_own_come_with_it(receiver: Receiver) -> None:
    """Each once, whatever the case of its name."""
    given = {"X-GitHub-Event": "issues", "Content-Type": "application/cloudevents+json"}
    await run_job(make_handler(), delivery_to(receiver.url, headers=given))
    [(headers, _)] = receiver.requests
    assert headers["x-github-event"] == "issues"
    assert headers["content-type"] == "application/cloudevents+json"
    assert headers["user-agent"] == "MeshHook-Queue"


@pytest.mark.parametrize("body", [None, 0, "text", [], {}, [1.5, {"a": None}], {"ü": "\u2028"}])
async def test_a_body_is_any_json(receiver: Receiver, body: Any) -> None:
    """And arrives as such."""
    await run_job(make_handler(), {"url": receiver.url, "body": body})
    [(headers, received)] = receiver.requests
    assert (
        WebhookDelivery.model_validate_json(b'{"url": "https://a/", "body": %s}' % received).body
        == body
    )
    assert headers["content-length"] == str(len(received))


async def test_a_body_of_megabytes_arrives_whole(receiver: Receiver) -> None:
    """Written in parts, so that other deliveries go on meanwhile."""
    job = make_job(WebhookDelivery(url=receiver.url, body=None))
    job.payload = WebhookDelivery(url=receiver.url, body="ü" * 1_500_000)
    await make_handler().deliver(job)
    [(headers, received)] = receiver.requests
    assert received.decode() == '"' + "ü" * 1_500_000 + '"'
    assert headers["content-length"] == "3000002"


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"url": "http://127.1/"}, "url"),
        ({"url": "https://user:pw@example.com/"}, "url"),
        ({"url": 5}, "url"),
        ({"id": ""}, "id"),
        ({"id": "a.b"}, "id"),
        ({"id": "a b"}, "id"),
        ({"id": "a\n"}, "id"),
        ({"headers": {"Host": "internal"}}, "headers"),
        ({"headers": {"webhook-id": "x"}}, "headers"),
        ({"headers": {"Transfer-Encoding": "chunked"}}, "headers"),
        ({"headers": {"X-A\r\nHost": "x"}}, "headers"),
        ({"headers": {"X-A": "x\r\nHost: y"}}, "headers"),
        ({"headers": {"X-A": "ü"}}, "headers"),
        ({"headers": {f"X-{number}": "" for number in range(51)}}, "headers"),
        ({"retries": 3}, "retries"),
    ],
)
def test_what_cannot_be_sent_is_no_delivery(fields: dict[str, Any], place: str) -> None:
    """Each fault names its field."""
    with pytest.raises(ValidationError) as caught:
        WebhookDelivery.model_validate({"url": URL, "body": {}} | fields)
    assert {error["loc"][0] for error in caught.value.errors()} == {place}


async def test_a_wrong_delivery_is_refused_when_it_is_enqueued(database_url: str) -> None:
    """By the app that declares the handler."""
    wrong: Any = {"url": "https://user:pw@example.com/", "body": {}}
    async with App(database_url) as app:
        webhooks = app.job("webhooks")(make_handler())
        with pytest.raises(InvalidJobError, match="credentials"):
            await webhooks.enqueue(wrong)
        assert await webhooks.enqueue(WebhookDelivery(url=URL, body={})) == 1
