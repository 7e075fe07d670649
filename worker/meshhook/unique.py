"""Unique keys: what a producer asks for, and what it is told."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, TypeAlias
from uuid import UUID

from meshhook.errors import InvalidJobError, InvalidSettingError
from meshhook.escaping import quoted
from meshhook.job_policies import JobPolicies
from meshhook.names import MAX_KEY_LENGTH

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from meshhook.follow_ups import FollowUp
    from meshhook.priorities import AnyPriority

UniqueFor: TypeAlias = Literal["until_done", "until_started"] | timedelta
"""How long a job has its unique key."""
OnConflict: TypeAlias = Literal["existing", "error", "replace"]
"""What to do if another job has the unique key."""

MAX_UNIQUE_SECONDS = 31_622_400
_UNTIL_DONE, _UNTIL_STARTED = "until_done", "until_started"
_ON_CONFLICT = ("existing", "error", "replace")


class ServiceOptions(JobPolicies, total=False):
    """Arguments of a service's `enqueue` that every job may have."""

    key: str | UUID | None
    priority: AnyPriority | None
    headers: Mapping[str, Any] | None
    connection: Any


class AppOptions(ServiceOptions, total=False):
    """Arguments of an app's `enqueue` that every job may have."""

    delay: float | timedelta
    run_id: str | UUID | None
    workflow_id: str | UUID | None
    project_id: str | UUID | None


class GroupOptions(ServiceOptions, total=False):
    """Arguments of a service's `enqueue_many` for jobs without unique keys."""

    group: str | UUID | None
    on_complete: FollowUp | None


class AppGroupOptions(AppOptions, total=False):
    """Arguments of an app's `enqueue_many` for jobs without unique keys."""

    group: str | UUID | None
    on_complete: FollowUp | None


class EnqueuedId(int):
    """The msg_id that enqueuing a job returns: an int that knows whether the job is new."""

    is_new: bool = True
    """Whether the job was stored. If not, the id is that of the job that has the unique key."""
    was_replaced: bool = False
    """Whether the job that has the unique key was waiting, and now is the one that was given."""

    def __new__(cls, msg_id: int, *, is_new: bool = True, was_replaced: bool = False) -> Self:
        """Take the msg_id, and what became of the job."""
        found = super().__new__(cls, msg_id)
        # What is as by default costs no dictionary.
        if not is_new:
            found.is_new, found.was_replaced = is_new, was_replaced
        return found


def new_ids(msg_ids: Iterable[int]) -> list[EnqueuedId]:
    """Return the ids of jobs that were stored: many of them in little time."""
    return [int.__new__(EnqueuedId, msg_id) for msg_id in msg_ids]


class Unique(NamedTuple):
    """A unique key, as statements take it."""

    key: str
    until_started: bool = False
    """Whether the job has it only until it starts."""
    seconds: float | None = None
    """For how long it has it, whatever becomes of the job; None means until it is done."""
    on_conflict: OnConflict = "existing"


def unique_from(
    unique_key: str | UUID | None, unique: UniqueFor | None, on_conflict: OnConflict | None
) -> Unique | None:
    """Return the unique key that a producer asks for, or None.

    Raises:
        InvalidJobError: if it is neither a string of 1 to 200 characters nor a UUID.
        InvalidSettingError: if `unique` or `on_conflict` is none of their values, or is given
            without a key.
    """
    if unique_key is None:
        for name, value in (("unique", unique), ("on_conflict", on_conflict)):
            if value is not None:
                raise InvalidSettingError(f"{name}={quoted(value)} needs a unique_key")
        return None
    key = str(unique_key) if isinstance(unique_key, UUID) else unique_key
    if not isinstance(key, str) or not 1 <= len(key) <= MAX_KEY_LENGTH:
        raise InvalidJobError(
            f"unique_key is a string of 1 to {MAX_KEY_LENGTH} characters or a UUID, "
            f"got {quoted(unique_key)}"
        )
    if "\0" in key or (not key.isascii() and any("\ud800" <= each <= "\udfff" for each in key)):
        raise InvalidJobError(
            f"unique_key={quoted(key)} has a character that PostgreSQL cannot store"
        )
    how = "existing" if on_conflict is None else on_conflict
    if how not in _ON_CONFLICT:
        raise InvalidSettingError(
            f"on_conflict is one of {', '.join(_ON_CONFLICT)}, got {quoted(on_conflict)}"
        )
    until_started, seconds = _kept(_UNTIL_DONE if unique is None else unique)
    return Unique(key, until_started, seconds, how)


def _kept(unique: object) -> tuple[bool, float | None]:
    if isinstance(unique, timedelta):
        seconds = unique.total_seconds()
        if not 0 < seconds <= MAX_UNIQUE_SECONDS:
            raise InvalidSettingError(f"unique is more than 0 and up to 366 days, got {unique}")
        return False, seconds
    if unique not in (_UNTIL_DONE, _UNTIL_STARTED):
        raise InvalidSettingError(
            f"unique is {_UNTIL_DONE!r}, {_UNTIL_STARTED!r} or a timedelta, got {quoted(unique)}"
        )
    return unique == _UNTIL_STARTED, None


def uniques_from(
    unique_keys: Iterable[str | UUID] | None,
    jobs: int,
    unique: UniqueFor | None,
    on_conflict: OnConflict | None,
) -> list[Unique] | None:
    """Return the unique keys of several jobs, one for each, or None.

    Raises:
        InvalidJobError: if one is not valid, or there are not as many as jobs.
        InvalidSettingError: as in `unique_from`.
    """
    if unique_keys is None:
        unique_from(None, unique, on_conflict)
        return None
    if isinstance(unique_keys, str | bytes | UUID) or not hasattr(unique_keys, "__iter__"):
        raise InvalidJobError(
            f"unique_keys: expected a list with a key for each job, got {quoted(unique_keys)}"
        )
    found: list[Unique] = []
    for key in unique_keys:
        if found and type(key) is str and 1 <= len(key) <= MAX_KEY_LENGTH and key.isprintable():
            # As those before it, but for the key.
            found.append(Unique(key, *found[0][1:]))
            continue
        try:
            found.append(_unique_of_one(key, unique, on_conflict))
        except InvalidJobError as error:
            error.add_note(f"job {len(found)} of the batch, counted from 0")
            raise
    if len(found) != jobs:
        raise InvalidJobError(
            f"unique_keys has a key for each job: got {len(found)} keys and {jobs} jobs"
        )
    return found


def _unique_of_one(
    key: str | UUID, unique: UniqueFor | None, on_conflict: OnConflict | None
) -> Unique:
    found = unique_from(key, unique, on_conflict)
    if found is None:
        raise InvalidJobError(
            "unique_keys has a key for each job, got None; enqueue jobs without one by themselves"
        )
    return found
