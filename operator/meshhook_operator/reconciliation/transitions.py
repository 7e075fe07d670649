"""Which events tell how one status became another. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from meshhook_operator.api.conditions import (
    KEYS_CHANGING,
    PAUSED,
    PRIORITIES_CHANGING,
    READY,
)
from meshhook_operator.api.wording import as_sentence, duration, replicas_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meshhook_operator.api.status import Condition, JobQueueStatus


class News(NamedTuple):
    """An event to write."""

    reason: str
    message: str
    is_warning: bool = False


def news_of(
    before: JobQueueStatus, after: JobQueueStatus, *, is_created: bool, now: float
) -> Iterator[News]:
    """Yield an event for each change that somebody should know of.

    Args:
        before: what was last written.
        after: what is written now.
        is_created: whether the operator makes the Deployment; otherwise it finds it.
        now: the time, in seconds since 1970.
    """
    if before.deployment is None and after.deployment is not None:
        yield _deployment(after, is_created=is_created)
    was, now_is = condition_of(before, READY), condition_of(after, READY)
    if now_is is not None:
        yield from _readiness(was, now_is, now)
    was, now_is = condition_of(before, PAUSED), condition_of(after, PAUSED)
    if now_is is not None:
        yield from _pauses(was, now_is)


def punctuality_news(condition: Condition, hint: str) -> News:
    """Return the event for a target age that is missed, or kept again.

    Args:
        condition: OnTime.
        hint: what limits the replicas, or how many workers are ready, as a sentence.
    """
    if condition.status == "False":
        return News(condition.reason, f"{condition.message} {hint}".strip(), is_warning=True)
    return News(condition.reason, f"Jobs start in time again. {condition.message}")


def _deployment(after: JobQueueStatus, *, is_created: bool) -> News:
    replicas = replicas_text(after.replicas or 0)
    if is_created:
        message = f"Deployment {after.deployment!r} was created with {replicas}."
        return News("DeploymentCreated", message)
    message = f"Deployment {after.deployment!r} is scaled from now on. It has {replicas}."
    return News("DeploymentFound", message)


def _readiness(before: Condition | None, after: Condition, now: float) -> Iterator[News]:
    is_other = before is None or (before.status, before.reason) != (after.status, after.reason)
    if after.status == "False" and is_other:
        yield News(after.reason, after.message, is_warning=True)
    elif before is not None and before.status == "False" and after.status == "True":
        since = datetime.fromisoformat(before.last_transition_time).timestamp()
        past = f"Recovered from {before.reason} after {duration(max(0.0, now - since))}."
        yield News("Recovered", f"{past} {as_sentence(after.message)}")
    elif after.reason != "Operating" and is_other:
        yield News(after.reason, after.message, is_warning=after.reason not in _IS_DONE)
    elif before is not None and is_other and before.reason in _IS_DONE:
        reason, what = _IS_DONE[before.reason]
        yield News(reason, f"The {what} of the queue are as declared. {after.message}")


_IS_DONE = {
    KEYS_CHANGING: ("KeysSet", "keys"),
    PRIORITIES_CHANGING: ("PrioritiesSet", "priorities"),
}
"""What is told when a change that takes a while is done, by its reason."""


def _pauses(before: Condition | None, after: Condition) -> Iterator[News]:
    if after.status == "True" and (before is None or before.reason != after.reason):
        yield News(after.reason, after.message)
    elif after.status == "False" and before is not None and before.status == "True":
        yield News("Resumed", f"The pause is over. {after.message}")


def condition_of(status: JobQueueStatus, kind: str) -> Condition | None:
    """Return a condition of a status; None if it has none of that type."""
    return next((each for each in status.conditions if each.type == kind), None)
