"""A job's own policies, which count before its queue's settings: headers that producers set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

from meshhook.errors import InvalidJobError, InvalidSettingError
from meshhook.escaping import quoted
from meshhook.jobs import RETRY_HEADER
from meshhook.retry import RetryPolicy, header_of_policy, policy_from_header

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class JobPolicies(TypedDict, total=False):
    """Arguments of `enqueue` that are policies of the job's own."""

    retry: RetryPolicy | None
    """When the job is retried. Default: as its queue's settings say."""


def headers_with_policies(
    headers: Mapping[str, Any] | None, *, retry: RetryPolicy | None = None
) -> Mapping[str, Any] | None:
    """Return a message's headers with the job's own policies among them.

    Raises:
        InvalidSettingError: if one is no policy.
        InvalidJobError: if one is given as a header as well.
    """
    own: dict[str, Any] = {}
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


def check_policy_header(name: str, value: object) -> bool:
    """Return whether a header of the queue's own is a policy that a producer may set, and check it.

    Raises:
        InvalidJobError: if it is one, and its value makes no sense.
    """
    check = _CHECKS.get(name)
    if check is None:
        return False
    try:
        check(value)
    except InvalidSettingError as error:
        raise InvalidJobError(f"header {name}: {error}") from None
    return True


_CHECKS: dict[str, Callable[[object], object]] = {RETRY_HEADER: policy_from_header}
