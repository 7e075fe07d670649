"""What a subject and a mode of the benchmark are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

BASELINE = "pgmq"
OWN = "meshhook"


@dataclass(frozen=True, slots=True)
class SubjectPlan:
    """One subject of the benchmark. How it is set up stands in the docstring of its module."""

    name: str
    """Its module in `subjects/`, and its environment in `peers.toml` if it is a peer."""
    title: str
    note: str
    """How it is used, for the reader of the figures."""
    tracking: bool
    """Whether it keeps a record of every job that has run."""
    metrics: bool
    """Whether it keeps metrics of every job in its process."""
    tracing: bool = False
    """Whether it traces jobs."""
    peer: bool = True
    """Whether it is another job queue, with an environment of its own."""
    share: float = 1.0
    """The part of the jobs that it is given to drain or to store in bulk: rates are compared, and
    a slow one would take minutes for what others do in a second."""


@dataclass(frozen=True, slots=True)
class ModePlan:
    """One measurement, taken of each of its subjects in each round."""

    mode: str
    """Its name in results."""
    group: str
    title: str
    measure: str
    """The function that measures; see `probe.py`."""
    figures: tuple[str, ...]
    """The keys of its result that are published; see `FIGURES`."""
    parameters: dict[str, Any] = field(default_factory=dict)
    subjects: tuple[str, ...] = ()
    """Only these; empty means all."""
    against: str = ""
    """The mode that it is compared with, subject by subject; empty for raw PGMQ in this mode."""
    own_ratio: str = ""
    """The figure that is itself a ratio to the subject's own baseline, if there is one."""
    rounds: int | None = None
    """In how many rounds at most; None means in all."""

    def measures(self, subject: SubjectPlan) -> bool:
        """Say whether the subject is measured."""
        return not self.subjects or subject.name in self.subjects

    def parameters_for(self, subject: SubjectPlan) -> dict[str, Any]:
        """Return the parameters, with the subject's share of the jobs."""
        if self.measure not in {"drain", "enqueue_many"}:
            return self.parameters
        return self.parameters | {"jobs": max(1, round(self.parameters["jobs"] * subject.share))}
