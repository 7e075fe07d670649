"""What a test expects of the jobs in its database, and the message if it is not so: pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict

from meshhook.errors import InvalidPayloadError
from meshhook.store.dead_letter_rows import DeadLetterJob
from meshhook.testing.enqueued import EnqueuedJob
from meshhook.testing.matching import difference

SHOWN_JOBS = 20
"""How many jobs a message lists."""


class JobFilters(TypedDict, total=False):
    """What a job must be like; what is left out may be anything."""

    run_id: str
    """The run it belongs to."""
    workflow_id: str
    """The workflow it belongs to."""
    project_id: str
    """The project it belongs to."""
    headers: Mapping[str, Any]
    """Headers that it has, among others."""
    state: str
    """ready, scheduled, running, retrying or lost."""


class DeadLetterFilters(TypedDict, total=False):
    """What a dead letter must be like; what is left out may be anything."""

    run_id: str
    """The run it belongs to."""
    workflow_id: str
    """The workflow it belongs to."""
    project_id: str
    """The project it belongs to."""
    error_type: str
    """What it died of: the name of an exception's class, or what the handler said."""
    attempts: int
    """How many attempts it had."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The jobs or dead letters that a test asks for."""

    payload: Any
    """What the payload has; None means anything."""
    filters: Mapping[str, Any]
    """What the fields are, by their names."""

    def fault_of(self, job: EnqueuedJob | DeadLetterJob) -> str | None:
        """Return the first thing in which a job is not what is asked for, or None."""
        for name, wanted in self.filters.items():
            fault = difference(wanted, getattr(job, name), name)
            if fault is not None:
                return fault
        if self.payload is None:
            return None
        try:
            return difference(self.payload, job.payload)
        except InvalidPayloadError as error:
            return str(error)

    def __str__(self) -> str:
        """Name what is asked for."""
        payload = {} if self.payload is None else {"payload": self.payload}
        return ", ".join(
            f"{name}={value!r}" for name, value in (payload | {**self.filters}).items()
        )


class Finding(NamedTuple):
    """A job that was found, and in what it is not the one that is asked for."""

    line: str
    """The job, for people."""
    fault: str | None
    """None: it is one that is asked for."""


def failure(
    wanted: Wanted,
    findings: Sequence[Finding],
    *,
    noun: str,
    queue: str | None,
    count: int | None,
    remark: str = "",
) -> str | None:
    """Return why an expectation does not hold, for people, or None if it holds.

    Args:
        wanted: what is asked for.
        findings: all that there is.
        noun: what it is: a job, or a dead letter.
        queue: the queue that was looked at; None means all.
        count: how many there must be; None means at least one.
        remark: what to say at the end.
    """
    found = sum(finding.fault is None for finding in findings)
    if found > 0 if count is None else found == count:
        return None
    place = "in any queue" if queue is None else f"in queue {queue!r}"
    expected = f"at least one {noun}" if count is None else _counted(count, noun)
    asked = f" with {wanted}" if str(wanted) else ""
    lines = [f"expected {expected} {place}{asked}, found {found or 'none'}"]
    if not findings:
        lines.append(f"There is no {noun} {place}.")
    else:
        verb = "is" if len(findings) == 1 else "are"
        lines.append(f"There {verb} {_counted(len(findings), noun)} {place}:")
        # Those that should not be there come first.
        ranked = sorted(findings, key=lambda finding: finding.fault is not None)
        lines += [f"  {line}  <- {fault or 'matches'}" for line, fault in ranked[:SHOWN_JOBS]]
        if len(findings) > SHOWN_JOBS:
            lines.append(f"  and {len(findings) - SHOWN_JOBS} more")
    if remark:
        lines.append(remark)
    return "\n".join(lines)


def _counted(count: int, noun: str) -> str:
    return f"{count or 'no'} {noun}{'' if count == 1 else 's'}"
