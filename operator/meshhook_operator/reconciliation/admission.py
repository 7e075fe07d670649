"""Arrivals of a queue of which limits or holds keep messages back: those that may start. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshhook_operator.scaling import Sample


@dataclass(frozen=True, slots=True)
class Admission:
    """How many of the messages that were ever sent were still kept back when last looked.

    The scaler plans for what arrives. A message that is kept back arrives for it when it may start,
    so that a tenant that floods asks for no more workers than its limit lets run.
    """

    before: Sample | None = None
    """The last sample, as read."""
    kept_back: int = 0
    """How many sent messages had not arrived then; negative if more were let go than had been
    counted."""

    def observe(self, sample: Sample) -> tuple[Admission, Sample]:
        """Return what to remember, and the sample with the messages sent that may start.

        Args:
            sample: as read.
        """
        before = self.before
        if before is None or sample.enqueued_total < before.enqueued_total:
            kept_back = sample.kept_back  # a queue that was created again counts from the start
        elif before.kept_back_is_capped and sample.kept_back_is_capped:
            sent = sample.enqueued_total - before.enqueued_total
            kept_back = self.kept_back + sent - min(sent, _let_through(before, sample))
        else:
            kept_back = self.kept_back + sample.kept_back - before.kept_back
        admitted = replace(sample, enqueued_total=sample.enqueued_total - kept_back)
        return Admission(sample, kept_back), admitted


def _let_through(before: Sample, after: Sample) -> int:
    """Return how many have come to what may start and what runs, from what has left it.

    Where so many are kept back that nobody counts them, this is all that is known.
    """
    earlier = {report.worker: report.processed for report in before.workers}
    ended = sum(
        max(0, report.processed - earlier.get(report.worker, report.processed))
        for report in after.workers
    )
    grown = after.ready + after.lost + after.leased - before.ready - before.lost - before.leased
    return max(0, ended + grown)
