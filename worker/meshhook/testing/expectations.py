"""What a test expects of the jobs in its database, and the message if it is wrong: pure."""

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
    """Conditions on a job; only those that are given count."""

    run_id: str
    """The run it belongs to."""
    workflow_id: str
    """The workflow it belongs to."""
    project_id: str
    """The project it belongs to."""
    headers: Mapping[str, Any]
    """Headers that it has; it may have more."""
    state: str
    """ready, scheduled, running, retrying or lost."""


class DeadLetterFilters(TypedDict, total=False):
    """Conditions on a dead letter; only those that are given count."""

    run_id: str
    """The run it belongs to."""
    workflow_id: str
    """The workflow it belongs to."""
    project_id: str
    """The project it belongs to."""
    error_type: str
    """Its error type: the name of the exception's class, or what the handler chose."""
    attempts: int
    """How many attempts it had."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The jobs or dead letters that a test looks for."""

    payload: Any
    """What the payload contains; None means anything."""
    filters: Mapping[str, Any]
    """The expected values of other fields, by name."""

    def fault_of(self, job: EnqueuedJob | DeadLetterJob) -> str | None:
        """Return the first difference between a job and the wanted one, or None."""
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
        """Show the conditions."""
        payload = {} if self.payload is None else {"payload": self.payload}
        return ", ".join(
            f"{name}={value!r}" for name, value in (payload | {**self.filters}).items()
        )


class Finding(NamedTuple):
    """A job that is there, and how it differs from the wanted one."""

    line: str
    """A description of the job."""
    fault: str | None
    """The difference; None if it matches."""


def failure(
    wanted: Wanted,
    findings: Sequence[Finding],
    *,
    noun: str,
    queue: str | None,
    count: int | None,
) -> str | None:
    """Return a message if an expectation is wrong, else None.

    Args:
        wanted: what the test looks for.
        findings: everything that is there.
        noun: "job" or "dead letter".
        queue: the queue that was searched; None means all queues.
        count: the expected number; None means at least one.
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
        # Those that match come first: if there are too many, the reader looks for them.
        ranked = sorted(findings, key=lambda finding: finding.fault is not None)
        lines += [f"  {line}  <- {fault or 'matches'}" for line, fault in ranked[:SHOWN_JOBS]]
        if len(findings) > SHOWN_JOBS:
            lines.append(f"  and {len(findings) - SHOWN_JOBS} more")
    return "\n".join(lines)


def _counted(count: int, noun: str) -> str:
    return f"{count or 'no'} {noun}{'' if count == 1 else 's'}"
