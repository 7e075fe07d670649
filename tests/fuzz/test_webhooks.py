"""The handler of webhooks, given anything: it works, or says which argument is wrong."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from meshhook import MeshHookError
from meshhook.http import WebhookHandler, WebhookSettings
from meshhook.testing import run_job
from support.fuzzing import examples
from support.hostile import ANYTHING, TEXTS, is_safe_line, of_odd
from support.receivers import SECRET, delivery_to, make_handler

ARGUMENTS = sorted(
    ({*inspect.signature(WebhookHandler).parameters} - {"settings"})
    | ({*WebhookSettings.model_fields} - {"secret"})
)


@examples(100)
@given(data=st.data())
def test_any_argument_works_or_is_named(data: st.DataObject) -> None:
    """One or two arguments are anything: no other error comes out, and none is long or acts."""
    names = data.draw(st.lists(st.sampled_from(ARGUMENTS), min_size=1, max_size=2, unique=True))
    arguments: dict[str, Any] = {"secret": SECRET}
    arguments |= {name: of_odd(data.draw(ANYTHING, label=name)) for name in names}
    try:
        WebhookHandler(**arguments)
    except MeshHookError as error:
        message = str(error)
    else:
        return
    assert any(name in message for name in names)
    assert len(message) < 3_000
    assert is_safe_line(message)


@examples(60)
@given(name=TEXTS, value=ANYTHING)
def test_a_setting_that_there_is_not_is_named(name: str, value: object) -> None:
    """Whatever it is called."""
    if name in ARGUMENTS:
        return
    try:
        make_handler(**{name: of_odd(value)})
    except MeshHookError as error:
        message = str(error)
    assert "has no setting" in message
    assert is_safe_line(message)


@examples(60)
@given(
    fields=st.fixed_dictionaries(
        {}, optional={"url": ANYTHING, "body": ANYTHING, "id": ANYTHING, "headers": ANYTHING}
    )
)
def test_any_payload_is_delivered_or_named(fields: dict[str, Any]) -> None:
    """It ends as an outcome of the job, with a short and harmless error; nothing is sent inside."""
    handler = WebhookHandler(secret=SECRET, lookup=_private)
    payload = delivery_to("https://receiver.example/") | {
        name: of_odd(value) for name, value in fields.items()
    }
    try:
        result = asyncio.run(run_job(handler, payload))
    except MeshHookError as error:  # it cannot be enqueued
        message = str(error)
    else:
        assert result.outcome in ("dead_lettered", "retried")
        message = result.error_message or ""
    assert len(message) < 10_000
    assert is_safe_line(message)


async def _private(_: str, __: int) -> list[str]:
    return ["10.0.0.1"]
