"""What the end of a batch handler means for each of its jobs: a pure decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from operator import is_
from typing import TYPE_CHECKING, Any

from meshhook.arguments import kind_of
from meshhook.errors import InvalidPayloadError
from meshhook.escaping import quoted
from meshhook.outcomes import Done
from meshhook.worker.results import UnusableResultError, end_of, is_awaitable
from meshhook.worker.verdicts import meaning_of

if TYPE_CHECKING:
    from meshhook.jobs import Job

_SHOWN_KEYS = 5
_WAY_OUT = (
    "return nothing if all are done, a list with the end of each job in the order of the jobs, or "
    "a dict of ends by msg_id"
)


def ends_of_batch(
    ended: object, jobs: Sequence[Job[Any]], listed: Sequence[Job[Any]] | None = None
) -> list[object]:
    """Return the end of each job, as a handler of one job would have returned or raised it.

    Args:
        ended: what the handler returned or raised. Nothing: all jobs are done. A list or tuple: the
            end of each job, in their order. A dict: the ends of some jobs by their msg_id; the
            others are done. An exception or outcome: the end of every job. Anything else is an
            error, and so the end of every job.
        jobs: the jobs that the handler was called with.
        listed: the list that it was called with, as it left it: if it has sorted that, its ends
            are in this order. Default: as it was.
    """
    if ended is None:
        return [None] * len(jobs)
    if isinstance(ended, BaseException):
        return [_of_all(meaning_of(ended), len(jobs))] * len(jobs)
    if isinstance(ended, list | tuple):
        if len(ended) == len(jobs):
            found = ended if listed is None else in_order(ended, jobs, listed)
            if isinstance(found, UnusableResultError):
                return [found] * len(jobs)
            return [None if each is None else _of_one(each) for each in found]
        fault = f"{len(ended)} ends for {len(jobs)} jobs"
    elif isinstance(ended, Mapping):
        known = {job.msg_id for job in jobs}
        unknown = [each for each in islice(ended, len(jobs) + _SHOWN_KEYS) if each not in known]
        if not unknown:
            return [None if end is None else _of_one(end) for end in _by_job(ended, jobs)]
        shown = ", ".join(quoted(each) for each in unknown[:_SHOWN_KEYS])
        fault = f"a dict with keys that are no msg_id of the batch's jobs: {shown}"
    else:
        fault = f"a value of type {kind_of(ended)}"
    error = UnusableResultError(f"the handler of a batch returned {fault}; {_WAY_OUT}")
    return [error] * len(jobs)


def in_order(
    ends: Sequence[Any], items: Sequence[object], listed: Sequence[object]
) -> Sequence[Any] | UnusableResultError:
    """Return ends in the order of the items that a handler was called with.

    Args:
        ends: an end for each item, in the order of its list.
        items: the items in their order.
        listed: the list of them, as the handler left it.

    Returns:
        The ends; an error if other items are in the list by now: nobody knows whose ends they are.
    """
    if len(listed) == len(items) and all(map(is_, listed, items)):
        return ends
    places = {id(item): place for place, item in enumerate(listed)}
    if len(places) == len(listed) == len(items) and places.keys() == set(map(id, items)):
        return [ends[places[id(item)]] for item in items]
    return UnusableResultError(
        "the handler of a batch returned a list of ends, and has changed the list that it was "
        "called with, so that the order of the ends is not known; change a copy of that list, or "
        "return a dict of ends by msg_id"
    )


def _by_job(ends: Mapping[Any, object], jobs: Sequence[Job[Any]]) -> list[object]:
    return [ends.get(job.msg_id) for job in jobs]


def _of_one(end: object) -> object:
    if isinstance(end, BaseException):
        return end
    if is_awaitable(end):
        return UnusableResultError(
            f"the handler of a batch returned an awaitable ({type(end).__name__}) as the end of a "
            "job: await it inside the handler"
        )
    return end_of(end)


def _of_all(ended: object, jobs: int) -> object:
    if jobs == 1:
        return ended
    if isinstance(ended, Done) and (ended.then or ended.result is not None):
        return UnusableResultError(
            f"the handler of a batch ended {jobs} jobs with one Done that has a result, or jobs "
            "that follow; return a list with the end of each job"
        )
    if isinstance(ended, InvalidPayloadError):
        # Of which job is not known, and the others may be good.
        return UnusableResultError(
            f"the handler of a batch raised InvalidPayloadError for {jobs} jobs; return a list "
            f"with the end of each job: {ended}"
        )
    return ended
