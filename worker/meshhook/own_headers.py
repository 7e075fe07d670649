"""Headers of policies of a job's own, and how they join the headers that its producer gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshhook.errors import InvalidJobError, InvalidSettingError
from meshhook.escaping import quoted
from meshhook.expiry import expiry_headers
from meshhook.jobs import RETRY_HEADER
from meshhook.retry import RetryPolicy, header_of_policy

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime, timedelta


def own_headers(
    retry: RetryPolicy | None,
    expires_at: datetime | None,
    expires_in: float | timedelta | None,
) -> dict[str, Any]:
    """Return the headers of the policies that are given.

    Raises:
        InvalidSettingError: if one is no policy.
    """
    own = expiry_headers(expires_at, expires_in)
    if retry is not None:
        if not isinstance(retry, RetryPolicy):
            raise InvalidSettingError(
                f"retry is a RetryPolicy, such as RetryPolicy(max_attempts=3), got {quoted(retry)}"
            )
        own[RETRY_HEADER] = header_of_policy(retry)
    return own


def with_own_headers(
    headers: Mapping[str, Any] | None, own: Mapping[str, Any]
) -> Mapping[str, Any] | None:
    """Return the headers of a producer with those of policies among them.

    Raises:
        InvalidJobError: if one is given as a header as well.
    """
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
