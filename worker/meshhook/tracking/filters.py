"""The filters of a search for jobs, and what they ask for."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import TypedDict

from meshhook.arguments import checked_id, checked_storable_text, utc_moment
from meshhook.errors import InvalidJobError, InvalidSettingError
from meshhook.escaping import quoted
from meshhook.jobs import MAX_ID_LENGTH
from meshhook.priorities import AnyPriority, checked_priority
from meshhook.store.job_rows import FINAL_STATES, LIVE_STATES
from meshhook.store.job_search import Wanted


class JobFilters(TypedDict, total=False):
    """Arguments of `find_jobs` beside the database and the queue."""

    run_id: str | None
    workflow_id: str | None
    project_id: str | None
    state: str | None
    key: str | None
    error_type: str | None
    since: datetime | None
    until: datetime | None
    before_id: int | None
    limit: int
    search_seconds: float
    priority: AnyPriority | None


def wanted_jobs(
    queue: str | None,
    *,
    state: str | None,
    since: datetime | None,
    until: datetime | None,
    before_id: int | None,
    limit: int,
    priority: AnyPriority | None,
    **texts: str | None,
) -> Wanted:
    """Return what to search for, checked.

    Raises:
        InvalidSettingError: naming the argument that is wrong.
    """
    if state is not None and state not in LIVE_STATES + FINAL_STATES:
        raise InvalidSettingError(
            f"state is one of {', '.join(LIVE_STATES + FINAL_STATES)}, got {quoted(state)}"
        )
    checked = {name: _checked_job_id(name, value) for name, value in texts.items()}
    wanted = Wanted(
        run_id=checked["run_id"],
        workflow_id=checked["workflow_id"],
        project_id=checked["project_id"],
        key=checked["key"],
        error_type=checked["error_type"],
        state=state,
        limit=limit,
        before_id=None if before_id is None else checked_id("before_id", before_id),
    )
    if queue is None and (wanted.key is not None or before_id is not None):
        raise InvalidSettingError("key, before_id: name the queue, whose keys and ids these are")
    if wanted.key is not None and (wanted.error_type is not None or state in FINAL_STATES):
        raise InvalidSettingError(
            "key: the history has no keys; leave out error_type, and states of jobs that have ended"
        )
    _check_time_range(since, until)
    return replace(
        wanted,
        since=None if since is None else utc_moment(since),
        until=None if until is None else utc_moment(until),
        priority=_band(priority, wanted),
    )


def _band(priority: object, wanted: Wanted) -> int | None:
    """Return a priority that is searched for as its number.

    Raises:
        InvalidSettingError: if it is none, or the history is searched.
    """
    if priority is None:
        return None
    if wanted.error_type is not None or wanted.outcome is not None:
        raise InvalidSettingError(
            "priority: the history has no priorities; leave out error_type, and states of jobs "
            "that have ended"
        )
    try:
        return int(checked_priority(priority))
    except InvalidJobError as error:
        raise InvalidSettingError(str(error)) from None


def _check_time_range(since: datetime | None, until: datetime | None) -> None:
    """Check the times between which to search.

    Raises:
        InvalidSettingError: naming the argument that is wrong.
    """
    for name, moment in (("since", since), ("until", until)):
        if moment is not None and (not isinstance(moment, datetime) or moment.utcoffset() is None):
            raise InvalidSettingError(
                f"{name} is a datetime with a time zone, got {quoted(moment)}"
            )
    if since is not None and until is not None and since >= until:
        raise InvalidSettingError(
            f"since is before until, got {since.isoformat()} and {until.isoformat()}"
        )


def _checked_job_id(name: str, value: str | None) -> str | None:
    """Return an id as messages and the history have it: in 200 characters.

    Raises:
        InvalidSettingError: if no job can have it.
    """
    if value is None:
        return None
    return checked_storable_text(name, value)[:MAX_ID_LENGTH]
