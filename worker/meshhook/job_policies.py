"""A job's own policies, which count before its queue's settings: headers that producers set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

from meshhook.errors import InvalidJobError, InvalidQueueNameError, InvalidSettingError
from meshhook.escaping import quoted
from meshhook.expiry import (
    check_expires_at,
    check_expires_in,
    check_single_deadline,
)
from meshhook.follow_ups import FollowUp
from meshhook.jobs import EXPIRES_AT_HEADER, EXPIRES_IN_HEADER, ON_DEAD_LETTER_HEADER, RETRY_HEADER
from meshhook.priorities import PRIORITY_HEADER, checked_priority
from meshhook.retry import RetryPolicy, policy_from_header

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime, timedelta


class JobPolicies(TypedDict, total=False):
    """Arguments of `enqueue` that are policies of the job's own."""

    retry: RetryPolicy | None
    """When the job is retried. Default: as its queue's settings say."""
    expires_at: datetime | None
    """When the job expires: it is not started at that time or later. A datetime with a time zone.
    Default: the queue's `job_expiry_seconds`."""
    expires_in: float | timedelta | None
    """The same as a time after it is enqueued, by the database's clock: 0.001 seconds to 366
    days, in seconds or as a timedelta."""
    on_dead_letter: FollowUp | None
    """A job to enqueue if it becomes a dead letter. Default: as its queue's setting
    `dead_letter_follow_up` says."""


class SchedulePolicies(TypedDict, total=False):
    """Arguments of a schedule that are policies of its jobs' own, as those of `JobPolicies`."""

    retry: RetryPolicy | None
    expires_in: float | timedelta | None
    on_dead_letter: FollowUp | None


def check_policy_header(name: str, value: object, headers: Mapping[str, Any]) -> bool:
    """Return whether a header of the queue's own is a policy that a producer may set, and check it.

    Args:
        name: the name of the header.
        value: its value.
        headers: all headers of the message.

    Raises:
        InvalidJobError: if it is one, and its value makes no sense.
    """
    check = _CHECKS.get(name)
    if check is None:
        return False
    try:
        check(value)
        check_single_deadline(headers)
    except InvalidSettingError as error:
        raise InvalidJobError(f"header {name}: {error}") from None
    return True


def _check_follow_up(value: object) -> None:
    """Check the header `meshhook-on-dead-letter`.

    Raises:
        InvalidSettingError: naming the field.
    """
    if not isinstance(value, dict) or not {"queue", "message"} <= value.keys() <= _FOLLOW_UP:
        raise InvalidSettingError(
            "an object with queue and message, and perhaps headers, key and delay_seconds, "
            f"got {quoted(value)}"
        )
    try:
        FollowUp(
            value["queue"],
            delay=value.get("delay_seconds", 0),
            key=value.get("key"),
            headers=value.get("headers"),
        )
        _check_headers_of_follow_up(value.get("headers") or {})
    except (InvalidJobError, InvalidQueueNameError) as error:
        raise InvalidSettingError(str(error)) from None


def _check_headers_of_follow_up(headers: Mapping[str, Any]) -> None:
    for name, value in headers.items():
        if name == PRIORITY_HEADER:
            checked_priority(value)
        elif str(name).startswith("meshhook-") and (
            name == ON_DEAD_LETTER_HEADER or not check_policy_header(name, value, headers)
        ):
            raise InvalidJobError(
                f"header {quoted(name)}: names that start with 'meshhook-' are the queue's own"
            )


_FOLLOW_UP = {"queue", "message", "headers", "key", "delay_seconds"}
_CHECKS: dict[str, Callable[[object], object]] = {
    RETRY_HEADER: policy_from_header,
    EXPIRES_AT_HEADER: check_expires_at,
    EXPIRES_IN_HEADER: check_expires_in,
    ON_DEAD_LETTER_HEADER: _check_follow_up,
}
