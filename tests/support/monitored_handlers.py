"""The handler of the fleet that Prometheus watches: a job does what its payload says."""

from __future__ import annotations

import asyncio
from typing import Any

from meshhook import DeadLetter, Job, Snooze


class CarrierUnavailableError(Exception):
    """The service of the carrier answers with an error."""


ERRORS: dict[str, type[Exception]] = {
    error.__name__: error for error in (TimeoutError, ConnectionError, CarrierUnavailableError)
}
_snoozed: set[int] = set()


async def handle(job: Job[Any]) -> None:
    """Take `seconds`, then end as the payload says.

    `fails` attempts raise the `error`; `snoozes` puts the job off once; `gone` gives up.
    """
    payload = job.payload
    await asyncio.sleep(payload.get("seconds", 0))
    if payload.get("gone"):
        raise DeadLetter("the address is gone", error_type="HTTP 410")
    if payload.get("snoozes") and job.msg_id not in _snoozed:
        _snoozed.add(job.msg_id)  # a snooze spends no attempt, so the attempt does not tell
        raise Snooze(1)
    if job.attempt <= payload.get("fails", 0):
        raise ERRORS[payload["error"]](f"attempt {job.attempt} failed")
