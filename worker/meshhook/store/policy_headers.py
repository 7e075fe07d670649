"""Headers that hold the policies of a job's own, made from the arguments of its producer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Unpack

from meshhook.errors import InvalidSettingError
from meshhook.escaping import quoted
from meshhook.follow_ups import FollowUp
from meshhook.jobs import ON_DEAD_LETTER_HEADER
from meshhook.own_headers import own_headers, with_own_headers
from meshhook.priorities import headers_with_priority
from meshhook.store.messages import follow_up_message

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime, timedelta

    from meshhook.job_policies import JobPolicies
    from meshhook.priorities import AnyPriority
    from meshhook.retry import RetryPolicy


def job_headers(
    headers: Mapping[str, Any] | None,
    priority: AnyPriority | None,
    **policies: Unpack[JobPolicies],
) -> Mapping[str, Any] | None:
    """Return the headers with which a producer's job is stored, made from its arguments.

    Args:
        headers: the producer's own.
        priority: how urgent the job is; None for nothing said.
        **policies: its own policies, as `QueueService.enqueue` describes them.

    Raises:
        InvalidSettingError, InvalidJobError: as `headers_with_policies`, or if the priority is
            none.
    """
    return headers_with_policies(headers_with_priority(headers, priority), **policies)


def headers_with_policies(
    headers: Mapping[str, Any] | None,
    *,
    retry: RetryPolicy | None = None,
    expires_at: datetime | None = None,
    expires_in: float | timedelta | None = None,
    on_dead_letter: FollowUp | None = None,
) -> Mapping[str, Any] | None:
    """Return a message's headers with the job's own policies among them.

    Raises:
        InvalidSettingError: if one is no policy.
        InvalidJobError: if one is given as a header as well, or a follow-up cannot be stored.
    """
    own = own_headers(retry, expires_at, expires_in)
    if on_dead_letter is not None:
        own[ON_DEAD_LETTER_HEADER] = _follow_up_header(on_dead_letter)
    return with_own_headers(headers, own)


def _follow_up_header(follow_up: object) -> dict[str, Any]:
    if not isinstance(follow_up, FollowUp):
        raise InvalidSettingError(
            f"on_dead_letter is a FollowUp, such as FollowUp('mails', {{...}}), "
            f"got {quoted(follow_up)}"
        )
    message = follow_up_message(follow_up)
    found = {
        "queue": message.queue,
        "message": json.loads(message.body),
        "headers": None if message.headers is None else json.loads(message.headers),
        "key": message.key,
        "delay_seconds": message.delay_seconds or None,
    }
    return {name: value for name, value in found.items() if name == "message" or value is not None}
