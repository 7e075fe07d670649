"""A job's own policies, which count before its queue's settings: headers that producers set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

from meshhook.errors import InvalidJobError, InvalidSettingError
from meshhook.escaping import quoted
from meshhook.expiry import (
    check_expires_at,
    check_expires_in,
    check_single_deadline,
    expiry_headers,
)
from meshhook.jobs import EXPIRES_AT_HEADER, EXPIRES_IN_HEADER, RETRY_HEADER
from meshhook.retry import RetryPolicy, header_of_policy, policy_from_header

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


def headers_with_policies(
    headers: Mapping[str, Any] | None,
    *,
    retry: RetryPolicy | None = None,
    expires_at: datetime | None = None,
    expires_in: float | timedelta | None = None,
) -> Mapping[str, Any] | None:
    """Return a message's headers with the job's own policies among them.

    Raises:
        InvalidSettingError: if one is no policy.
        InvalidJobError: if one is given as a header as well.
    """
    own = expiry_headers(expires_at, expires_in)
    if retry is not None:
        if not isinstance(retry, RetryPolicy):
            raise InvalidSettingError(
                f"retry is a RetryPolicy, such as RetryPolicy(max_attempts=3), got {quoted(retry)}"
            )
        own[RETRY_HEADER] = header_of_policy(retry)
    if not own:
        return headers
    if headers is None:
        return own
    if not hasattr(headers, "keys"):
        return headers  # what is no mapping is refused with the other headers
    for name in own:
        if name in headers:
            raise InvalidJobError(
                f"the header {name} was given beside the argument that sets it; leave one of them "
                "out"
            )
    return {**headers, **own}


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


_CHECKS: dict[str, Callable[[object], object]] = {
    RETRY_HEADER: policy_from_header,
    EXPIRES_AT_HEADER: check_expires_at,
    EXPIRES_IN_HEADER: check_expires_in,
}
