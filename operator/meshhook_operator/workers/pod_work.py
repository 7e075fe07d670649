"""What each pod is doing, added up from the reports of the workers in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meshhook_operator.scaling import WorkerReport


@dataclass(frozen=True, slots=True, kw_only=True)
class PodWork:
    """What the workers of one pod reported last."""

    running: int
    """How many jobs they run."""
    oldest_running_seconds: float
    """How long the oldest of these has run; 0 if none runs."""
    is_cordoned: bool
    """Whether all of them claimed nothing when they reported. If they ran nothing either, the pod
    is idle and stays so."""
    cordon_seconds: tuple[float, ...]
    """For how long each of them that does not stop is asked to claim nothing; 0 if it is not."""

    @property
    def is_asked(self) -> bool:
        """Whether any of them is asked to claim nothing."""
        return any(self.cordon_seconds)


def work_by_pod(reports: Iterable[WorkerReport]) -> dict[str, PodWork]:
    """Return what each pod is doing, by its name. Reports that do not say where are left out."""
    by_host: dict[str, list[WorkerReport]] = {}
    for report in reports:
        if report.host:
            by_host.setdefault(report.host, []).append(report)
    return {
        host: PodWork(
            running=sum(each.running for each in found),
            oldest_running_seconds=max(each.oldest_running_seconds for each in found),
            is_cordoned=all(each.cordoned for each in found),
            cordon_seconds=tuple(each.cordon_seconds for each in found if not each.draining),
        )
        for host, found in by_host.items()
    }
