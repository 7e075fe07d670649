"""Settlements in a row that have all but their ids in common, as those of a batch: pure."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

LEAST_JOBS_A_ROW = 8
"""How many jobs a row must have on average: below that, a row a job is no dearer."""
SEPARATOR = "\x1f"
"""What stands between the ids of runs in `sql/settle_alike.sql`."""


class AlikeRows(NamedTuple):
    """Jobs by rows of neighbours that are alike. The fields are parameters, in their order."""

    msg_ids: str
    """The ids of all messages, as an array's text."""
    run_ids: str | None
    """The runs of all jobs, with separators in between; None if no job has one."""
    first: Sequence[int]
    """The position, from 1, of the first job of each row."""
    last: Sequence[int]
    """The position of the last job of each row."""
    columns: Sequence[Sequence[Any] | None]
    """What the jobs of a row have in common: a value for each row."""


def alike_rows(
    msg_ids: Sequence[int],
    run_ids: Sequence[str | None] | None,
    columns: Sequence[Sequence[Any] | None],
) -> AlikeRows | None:
    """Return jobs by rows of neighbours that are alike, or None if that would not pay.

    Args:
        msg_ids: the ids of the messages.
        run_ids: the runs of the jobs; None if no job has one.
        columns: what jobs may have in common; None for a column without values.
    """
    most_rows = len(msg_ids) // LEAST_JOBS_A_ROW
    starts = {0}
    for column in columns:
        # Many values are seen at once; where they change is looked for only if they are few.
        if column is None or (values := len(set(column))) == 1:
            continue
        if values > most_rows:
            return None
        starts.update([i for i, (one, next_) in enumerate(pairwise(column), 1) if one != next_])
    if len(starts) > most_rows:
        return None
    runs = None
    if run_ids is not None:
        known = [each for each in run_ids if each is not None]
        runs = SEPARATOR.join(known)
        if len(known) < len(run_ids) or not runs or runs.count(SEPARATOR) != len(known) - 1:
            return None  # not every job has one, or one is empty or has the separator in it
    first = sorted(starts)
    return AlikeRows(
        f"{{{','.join(map(str, msg_ids))}}}",
        runs,
        [start + 1 for start in first],
        [*first[1:], len(msg_ids)],
        [None if column is None else [column[start] for start in first] for column in columns],
    )
